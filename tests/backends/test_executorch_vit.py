"""ViT's .pte file as we draw it: forms that its cell does not have, and what is left to others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from edgecompile import sources
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.scope import vit_refusal
from edgecompile.checks.stored_once import duplicates
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.runtime.batching import look_all
from tests import tiny
from tests.backends.codes import rounded
from tests.backends.test_executorch import holds_the_model
from tests.runtime.executorch_files import opened

BACKEND = Executorch()
SIDE = 32  # pixels


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def vit(folder: Path, **changes: Any) -> Model:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "image_size": SIDE, "patch_size": 8, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 7,
        "initializer_range": 0.1,
    }  # fmt: skip
    module = transformers.ViTForImageClassification(transformers.ViTConfig(**{**sizes, **changes}))
    for name, weight in module.named_parameters():
        if weight.ndim == 1:  # made as zeros and ones, so that one is like another
            torch.nn.init.uniform_(weight, 0.5, 1.5 if "norm" in name else 1.0)
    module.save_pretrained(folder)
    settings = '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    (folder / "preprocessor_config.json").write_text(settings)
    tiny.card(folder)
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return vit(tmp_path_factory.mktemp("vit") / "m")


def written(model: Model, folder: Path) -> NDArray[np.float32]:
    """The file's scores of two pictures."""
    folder.mkdir()
    made = BACKEND.export(model, folder, quiet)
    holds_the_model(folder, model, made)
    return look_all(opened(folder, model, made), pixels(), 1)


def pixels() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [{"patch_size": 7}, {"patch_size": [8, 5]}, {"hidden_act": "quick_gelu"}, {"qkv_bias": False}],
    ids=["patches that leave a margin", "patches that are no squares", "quick gelu", "no biases"],
)
def test_other_forms_answer_as_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = vit(tmp_path / "m", **changes)
    right = Reference(model).look(pixels())
    assert np.abs(written(model, tmp_path / "out") - right).max() < 1e-4 * np.abs(right).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_there_once_and_near_torch_on_the_same_codes(
    plain: Model, tmp_path: Path, bits: int
) -> None:
    model = rounded(plain, tmp_path / "codes", bits, convolutions=False)
    found = written(model, tmp_path / "out")
    with Reference(model).quantized(model.quantized) as reference:
        right = reference.look(pixels())
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)
    assert not list(duplicates(BACKEND.extents(tmp_path / "out")))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_act": "relu"}, "relu"), ({"head_dim": 8}, "head_dim"),
        ({"image_size": 64}, "image_size"), ({"num_channels": 1}, "image_size"),
        ({"model_type": "beit"}, "beit"),
    ],
)  # fmt: skip
def test_what_is_not_drawn_is_left_to_torch_export(
    plain: Model, change: dict[str, Any], why: str
) -> None:
    assert why in vit_refusal(replace(plain, config={**plain.config, **change}))


def test_the_same_model_gives_the_same_bytes(plain: Model, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(plain, tmp_path / name)
    files = [(tmp_path / name / "model.pte").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
