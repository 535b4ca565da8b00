"""Files for Core ML and Vulkan: the chosen codes are in them, although nothing here runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile.backends import Decoded, Export
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.delegated import Constants
from edgecompile.backends.executorch_graph.scope import FILE
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import QuantizedTensor, Scheme
from tests import tiny
from tests.backends import test_executorch as xnnpack
from tests.backends.codes import rounded
from tests.backends.test_executorch import decoded, holds_the_model, load, quiet
from tests.runtime.executorch_files import opened

MODULE = f"{xnnpack.__name__}:dense_module"
DEVICES = ["coreml", pytest.param("vulkan", marks=pytest.mark.slow)]  # seconds, half a minute


def written(model: Model, folder: Path, device: str, precision: Any = "float32") -> Export:
    folder.mkdir()
    backend = Executorch(partitioner=device, compute_precision=precision)  # type: ignore[arg-type]
    return backend.export(model, folder, quiet)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("device", DEVICES)
def test_a_file_for_another_device_holds_the_codes_and_floats(
    tmp_path: Path, device: str, bits: int
) -> None:
    model = rounded(load(MODULE), tmp_path / "codes", bits)
    holds_the_model(tmp_path / "out", model, written(model, tmp_path / "out", device))


@pytest.mark.parametrize("device", DEVICES)
def test_the_check_for_duplicates_sees_every_code(tmp_path: Path, device: str) -> None:
    model = rounded(load(MODULE), tmp_path / "codes", 8)
    written(model, tmp_path / "out", device)
    found = {e.data.tobytes() for e in Executorch().extents(tmp_path / "out")}
    assert {n for n, t in model.quantized.items() if t.codes.tobytes() not in found} == set()


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_module_gives_the_same_bytes(tmp_path: Path, device: str) -> None:
    model = rounded(load(MODULE), tmp_path / "codes", 8)
    for name in ("one", "two"):
        written(model, tmp_path / name, device)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["coreml", "vulkan"])
def test_an_encoder_for_another_device_takes_texts_of_any_length(
    tmp_path: Path, device: str
) -> None:
    model = load(str(tiny.bert(tmp_path / "model")), "embedding")
    export = written(model, tmp_path / "out", device)
    holds_the_model(tmp_path / "out", model, export)
    assert export.inputs[0].shape == (1, "length")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Decoded]:
    folder = tmp_path_factory.mktemp("halves")
    model = rounded(load(MODULE), folder / "codes", 8)
    export = written(model, folder / "out", "coreml", "float16")
    return model, decoded(folder / "out", model, export)


def test_float16_keeps_every_code_and_scale(halves: tuple[Model, Decoded]) -> None:
    model, found = halves
    for name, tensor in model.quantized.items():
        assert found.quantized[name].digest(name) == tensor.digest(name), name


def test_float16_rounds_the_floats_and_nothing_else(halves: tuple[Model, Decoded]) -> None:
    model, found = halves
    for name, values in found.floats.items():
        assert np.array_equal(values, model.dense(name).astype(np.float16)), name


def test_the_runtime_here_refuses_the_file_and_says_what_it_lacks(tmp_path: Path) -> None:
    model = load(MODULE)
    export = written(model, tmp_path / "out", "coreml")
    with pytest.raises(UnsupportedError, match="CoreMLBackend"):
        opened(tmp_path / "out", model, export)


def test_decoders_are_for_xnnpack_only(tmp_path: Path) -> None:
    model = load(str(tiny.llama(tmp_path / "model")))
    assert "decoders" in Executorch(partitioner="coreml").refusal(model)
    assert not Executorch().refusal(model)


def test_xnnpack_computes_in_float32_only(tmp_path: Path) -> None:
    model = load(str(tiny.bert(tmp_path / "model")), "embedding")
    assert "float16" in Executorch(compute_precision="float16").refusal(model)


def test_a_code_that_is_not_the_models_is_found_nowhere(tmp_path: Path) -> None:
    model = rounded(load(MODULE), tmp_path / "codes", 8)
    name, tensor = next(iter(model.quantized.items()))
    codes = tensor.codes.copy()
    codes[0, 0] ^= 1
    changed = Constants({"there": replace(tensor, codes=codes)}, ())
    assert changed.places(model, [name], "float32") == ({}, [name])
    assert Constants({"there": tensor}, ()).places(model, [name], "float32") == (
        {name: "there"}, [],
    )  # fmt: skip


def test_a_row_of_one_group_is_read_as_the_manifest_calls_it() -> None:
    tensor = QuantizedTensor(
        Scheme(4, 0), np.ones((2, 32), np.int8), np.ones((2, 1), np.float32)
    )
    manifest = {
        "tensors": [{"name": "a", "scheme": "int4-g32"}], "floats": [],
        "engine": {"options": {"places": {"a": "there"}}},
    }  # fmt: skip
    found = Constants({"there": tensor}, ()).decoded(manifest)
    assert found.quantized["a"].scheme == Scheme(4, 32)
