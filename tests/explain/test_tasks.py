"""Every task that is explained, on sealed files without an engine."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile.build import build
from edgecompile.explain import Explanation, Options, explain, open_bundle
from edgecompile.plan import Request, plan
from tests.architectures import cells

KINDS = {kind.model_type: kind for kind in cells.KINDS}
METRICS = {
    "classification": {"class_agreement"},
    "token-classification": {"class_agreement"},
    "fill-mask": {"kl_mean", "kl_p999", "top1_agreement", "perplexity_ratio"},
    "text-ranking": {"rank_correlation"},
}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def explained(folder: Path, out: Path, data: Path | None = None, **options: str) -> Explanation:
    request = Request(
        options.get("model", str(folder)), ("null",), out, data=data, allow=("no-gain",),
        settings=("quantize.method=rtn", "quantize.bits=4", *options.get("set", "").split()),
        task=options.get("task", ""),
    )  # fmt: skip
    bundle = next(iter(build(plan(request), quiet))).bundle
    asked = Options(bundle, options.get("model"), data, texts=12, tokens=64, evaluations=6)
    return explain(open_bundle(asked, quiet), quiet)


@pytest.mark.parametrize("task", METRICS)
def test_an_encoder_with_a_head_is_explained(task: str, tmp_path: Path) -> None:
    cells.make(KINDS["bert"], task, tmp_path / "bert")
    found = explained(tmp_path / "bert", tmp_path, task=task)
    assert set(found.now.metrics) == METRICS[task]
    assert found.now.divergence > 0
    assert not isinstance(found.attention, str)
    assert found.attention[0].divergence.shape == (2, 4)
    assert not isinstance(found.saliency, str)


@pytest.mark.parametrize("kind", ["gemma3_text", "gpt2", "phi3"])
def test_decoders_of_other_kinds_are_explained(kind: str, tmp_path: Path) -> None:
    cells.make(KINDS[kind], cells.DECODER, tmp_path / kind)
    found = explained(tmp_path / kind, tmp_path)
    assert found.now.divergence > 0
    assert not isinstance(found.attention, str)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 pictures of noise."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(40):
        values = np.random.default_rng(seed).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("kind", ["vit", "mobilenet_v2"])
def test_a_classifier_of_pictures_is_explained(kind: str, tmp_path: Path, pictures: Path) -> None:
    cells.make(KINDS[kind], cells.PICTURES, tmp_path / kind)
    found = explained(tmp_path / kind, tmp_path / "dist", pictures)
    assert set(found.now.metrics) == {"class_agreement"}
    assert found.now.divergence > 0
    assert found.saliency == "tokens are a text model's"
    assert isinstance(found.attention, str) == (kind == "mobilenet_v2")


def test_maps_of_a_picture_are_shown(tmp_path: Path, pictures: Path) -> None:
    cells.make(KINDS["vit"], cells.PICTURES, tmp_path / "vit")
    found = explained(tmp_path / "vit", tmp_path / "dist", pictures)
    assert not isinstance(found.attention, str)
    assert {one.source.shape for one in found.attention[0].maps} == {(17, 17)}


MODULE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)), (torch.randn(2, 32),)
"""


def test_a_module_of_the_users_own_is_explained(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    found = explained(tmp_path, tmp_path / "dist", model=f"{tmp_path / 'own.py'}:build")
    assert set(found.now.metrics) == {"relative_error"}
    assert [row.layer for row in found.noise] == ["0", "2"]
    assert isinstance(found.attention, str)


def test_only_a_few_tensors_are_measured_in_a_few_evaluations(tmp_path: Path) -> None:
    cells.make(KINDS["llama"], cells.DECODER, tmp_path / "llama")
    found = explained(tmp_path / "llama", tmp_path)
    assert sum(row.measured for row in found.restored) < len(found.restored)
    assert found.inputs["evaluations"] <= 1 + 6 + 8
