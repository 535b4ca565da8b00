"""Batch norms in ExecuTorch's file: multiplied into the convolutions, and compared as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import bundle, sources
from edgecompile.backends import Export
from edgecompile.backends.executorch import Executorch
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import float_digest
from edgecompile.reference import Reference

MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8, eps=1e-2)
        self.head = nn.Linear(8, 10)
    def forward(self, x):
        y = self.stem(x)
        y = nn.functional.relu6(self.norm(y)) SKIP
        return self.head(self.norm2(self.depthwise(y)).mean((2, 3)))
def build():
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for norm in (net.norm, net.norm2):
            for values in (norm.weight, norm.bias, norm.running_mean):
                values.normal_()
            norm.running_var.uniform_(0.5, 2)
    return net, {"x": torch.randn(1, 3, 12, 12).numpy()}
"""
FOLDED = {"stem.weight", "norm.bias", "depthwise.weight", "norm2.bias"}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def loaded(folder: Path, skip: str = "") -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "normed.py"
    file.write_text(MODULE.replace("SKIP", skip))
    return sources.load(sources.resolve(f"{file}:build"), quiet)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(tmp_path_factory.mktemp("normed"))


@pytest.fixture(scope="module")
def made(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Path]:
    out = tmp_path_factory.mktemp("out")
    return Executorch().export(model, out, quiet), out


def manifest(model: Model, export: Export) -> Mapping[str, Any]:
    return {
        "tensors": [], "floats": bundle.float_entries(model, export),
        "engine": {"options": dict(export.options)},
    }


def test_the_manifest_names_what_a_norm_was_multiplied_into(
    model: Model, made: tuple[Export, Path]
) -> None:
    floats = manifest(model, made[0])["floats"]
    assert {entry["name"] for entry in floats if entry.get("folded")} == FOLDED


def test_every_float_is_read_back_from_the_file(model: Model, made: tuple[Export, Path]) -> None:
    export, out = made
    entries = {entry["name"]: entry["sha256"] for entry in manifest(model, export)["floats"]}
    found = Executorch().decode(out, manifest(model, export)).floats
    assert {n: float_digest(n, found[n], "float32") for n in entries} == entries


def test_a_norms_other_tensors_say_where_they_went(made: tuple[Export, Path]) -> None:
    assert made[0].unused["norm2.running_var"] == "multiplied into depthwise.weight"


def test_counters_of_training_are_left_out(made: tuple[Export, Path]) -> None:
    assert made[0].unused["norm.num_batches_tracked"] == "a counter of training"


def test_the_answers_are_the_modules(model: Model, made: tuple[Export, Path]) -> None:
    from executorch.extension.pybindings import _C

    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    right = Reference(model).run(x=x)["output_0"]
    import torch

    method = _C._load_program(str(made[1] / "model.pte")).load_method("forward")
    found = method([torch.from_numpy(x)])[0].numpy()
    assert np.abs(found - right).max() < 1e-4 * np.abs(right).max()


def test_a_convolution_that_another_reads_too_is_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path / "read", skip="+ y")
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedError, match="other readers"):
        Executorch().export(model, tmp_path / "out", quiet)
