"""prune_depth: which blocks go, how the rest are numbered, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile import sources
from edgecompile.architectures import DECODERS
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.passes.prune_depth import PruneDepth
from edgecompile.pruning import checkpoint
from edgecompile.pruning.axes import shape_of
from edgecompile.reference import Reference
from tests import tiny
from tests.architectures import cells

IDS = [5, 17, 30, 9, 22, 41, 8, 3]
KINDS = {kind.model_type: kind for kind in cells.KINDS}
FEW: dict[str, Any] = {"texts": 8, "length": 24}


def of_six(architecture: str, folder: Path, task: str = "") -> Model:
    """Six layers of an architecture: enough for all kinds that Gemma and SmolLM3 alternate."""
    kind = KINDS[architecture]
    config = {**kind.config, "num_hidden_layers": 6}
    return cells.make(dataclasses.replace(kind, config=config), task or kind.tasks[0], folder)


def idle(model: Model, layers: tuple[int, ...], folder: Path) -> Model:
    """The same model, in which those layers add nothing."""
    ends = ("o_proj.weight", "down_proj.weight", "c_proj.weight")
    start = shape_of(model, 1).layer

    def tensor(name: str) -> torch.Tensor:
        at = any(name.startswith(f"{start}{layer}.") for layer in layers)
        value = model.weights[name].contiguous()
        return torch.zeros_like(value) if at and name.endswith(ends) else value

    checkpoint.write(model, folder, model.config, list(model.weights), tensor)
    return dataclasses.replace(checkpoint.adopt(model, folder), origin=None)


@pytest.mark.parametrize("architecture", sorted(DECODERS))
def test_layers_that_add_nothing_go_and_no_answer_changes(
    architecture: str, tmp_path: Path
) -> None:
    model = idle(of_six(architecture, tmp_path / "model"), (1, 4), tmp_path / "idle")
    chosen = PruneDepth(layers=4, **FEW)
    smaller = chosen(model, tiny.work(tmp_path / "work", tiny.corpus())).model
    assert "layers 1, 4 of 6 went" in smaller.source.notes[-1]
    expected = Reference(model).logits(IDS)
    np.testing.assert_allclose(Reference(smaller).logits(IDS), expected, atol=1e-5)


def test_measuring_each_loss_finds_them_too(tmp_path: Path) -> None:
    model = idle(of_six("llama", tmp_path / "model"), (2, 3), tmp_path / "idle")
    chosen = PruneDepth(ratio=0.34, by="kl", **FEW)
    smaller = chosen(model, tiny.work(tmp_path / "work", tiny.corpus())).model
    assert "layers 2, 3 of 6 went" in smaller.source.notes[-1]


@pytest.mark.parametrize("task", ["embedding", "classification"])
@pytest.mark.parametrize("by", ["influence", "kl"])
def test_an_encoder_loses_layers_and_stays_a_plain_folder(
    task: str, by: Any, tmp_path: Path
) -> None:
    model = of_six("distilbert", tmp_path / "model", task)
    chosen = PruneDepth(layers=3, by=by, **FEW)
    smaller = chosen(model, tiny.work(tmp_path / "work", tiny.corpus())).model
    loaded = cells.AUTO[task].from_pretrained(smaller.folder)
    assert loaded.config.num_hidden_layers == 3


def test_what_a_plan_says_is_what_comes(tmp_path: Path) -> None:
    model = of_six("qwen3", tmp_path / "model")
    chosen = PruneDepth(layers=4, **FEW)
    expected = {n: i.shape for n, i in chosen.headers(model).weights.infos.items()}
    found = chosen(model, tiny.work(tmp_path / "work", tiny.corpus())).model.weights.infos
    assert {n: i.shape for n, i in found.items()} == expected


def test_every_tensor_has_a_row(tmp_path: Path) -> None:
    model = of_six("llama", tmp_path / "model")
    result = PruneDepth(layers=5, **FEW)(model, tiny.work(tmp_path / "work", tiny.corpus()))
    assert [row.name for row in result.layers] == list(model.weights)
    assert result.changed == sum(n.startswith("model.layers.0.") for n in model.weights)


@pytest.mark.parametrize("options", [{}, {"layers": 2, "ratio": 0.5}, {"ratio": 1.0}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PruneDepth(**options)


def test_as_many_layers_as_there_are_is_no_pruning(tmp_path: Path) -> None:
    model = sources.load(sources.resolve(str(tiny.llama(tmp_path / "m"))), lambda *_: None)
    with pytest.raises(UsageError, match="2 of 2 layers would stay"):
        PruneDepth(layers=2).headers(model)


def test_an_architecture_without_a_description_is_refused(tmp_path: Path) -> None:
    other = cells.Kind("GPT-NeoX", "gpt_neox", (cells.DECODER,))
    with pytest.raises(UnsupportedError, match="gpt_neox"):
        PruneDepth(layers=1).headers(cells.make(other, cells.DECODER, tmp_path / "model"))
