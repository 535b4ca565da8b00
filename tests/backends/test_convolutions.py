"""Convolutions have codes in every engine that reads them, beside batch norms as they were."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest

from edgecompile import bundle, sources, target
from edgecompile.backends import Backend, Export
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.backends.openvino import Openvino
from edgecompile.checks.sealed import worst_group
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.balance import balanced
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import SMALLEST_SCALE, Scheme
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.plan import make_pass
from edgecompile.recipe import Recipe, pass_choices
from edgecompile.reference import Reference
from edgecompile.structure import roles
from tests import tiny
from tests.backends.codes import rounded

MODULE = '''
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.norm2 = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 24, 3, 1, 1, groups=2)
        self.line, self.head = nn.Conv1d(24, 16, 3), nn.Linear(16, 10)
    def forward(self, x):
        y = nn.functional.relu6(self.norm(self.stem(x)))
        y = self.grouped(self.norm2(self.depthwise(y))).flatten(2)
        return self.head(self.line(y).mean(2))
def build():
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for norm in (net.norm, net.norm2):
            for values in (norm.weight, norm.bias, norm.running_mean):
                values.normal_()
            norm.running_var.uniform_(0.5, 2)
    return net, {"x": torch.randn(2, 3, 12, 12).numpy()}
'''
CONVOLUTIONS = {"stem.weight", "depthwise.weight", "grouped.weight", "line.weight"}
EXACT: Mapping[str, Backend] = {
    "onnxruntime": Onnxruntime(accuracy_level=1), "openvino": Openvino(activations="exact"),
}  # fmt: skip
PICTURES = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
Made = tuple[Model, Export, Path]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("net")
    (folder / "module_with_convolutions.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    return sources.load(sources.resolve("module_with_convolutions:build"), quiet)


@pytest.fixture(scope="module")
def model(source: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return rounded(source, tmp_path_factory.mktemp("codes"), 8)


@pytest.fixture(scope="module", params=list(EXACT))
def made(
    request: pytest.FixtureRequest, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Made]:
    out = tmp_path_factory.mktemp(request.param)
    return request.param, (model, EXACT[request.param].export(model, out, quiet), out)


def manifest(model: Model, export: Export) -> Mapping[str, Any]:
    return {
        "tensors": bundle.tensor_entries(model, export),
        "floats": bundle.float_entries(model, export),
        "engine": {"options": dict(export.options)},
    }


def answers(engine: str, folder: Path) -> np.ndarray[Any, Any]:
    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {"x": PICTURES})[0])
    compiled = openvino.Core().compile_model(
        folder / "openvino_model.xml", "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
    )  # fmt: skip
    return np.asarray(compiled({"x": PICTURES})[0])


def test_every_kind_of_convolution_has_the_role(source: Model) -> None:
    found = {name for name, role in roles(source).items() if role == "convolution"}
    assert found == CONVOLUTIONS


def test_a_convolution_has_8_bits_a_channel_where_4_bits_are_asked_for(source: Model) -> None:
    schemes = QuantizeRtn(bits=4, group_size=8).preview(source)
    assert {schemes[name].name for name in CONVOLUTIONS} == {"int8-channel"}
    assert schemes["head.weight"].name == "int4-g8"


def test_convolutions_keep_their_floats_where_none_are_wanted(source: Model) -> None:
    options = QuantizeRtn(convolutions=False)
    assert set(options.preview(source)) == {"head.weight"}
    assert "convolutions = false" in options.skipped(source)["stem.weight"]


def test_a_manifest_has_the_shape_of_the_source(made: tuple[str, Made]) -> None:
    model, export, _ = made[1]
    shapes = {entry["name"]: entry["shape"] for entry in bundle.tensor_entries(model, export)}
    assert shapes["grouped.weight"] == [24, 8, 3, 3]
    assert shapes["line.weight"] == [16, 24, 3]


def test_codes_are_read_back_exactly(made: tuple[str, Made]) -> None:
    engine, (model, export, folder) = made
    found = EXACT[engine].decode(folder, manifest(model, export)).quantized
    chosen = {name: tensor.digest(name) for name, tensor in model.quantized.items()}
    assert {name: found[name].digest(name) for name in found} == chosen


def test_batch_norms_are_in_the_file_as_the_source_has_them(made: tuple[str, Made]) -> None:
    engine, (model, export, folder) = made
    found = EXACT[engine].decode(folder, manifest(model, export)).floats
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert np.array_equal(found[f"norm2.{name}"], model.weights.float32(f"norm2.{name}"))


def test_only_counters_are_left_out(made: tuple[str, Made]) -> None:
    _, export, _ = made[1]
    assert set(export.unused) == {"norm.num_batches_tracked", "norm2.num_batches_tracked"}


def test_it_answers_as_torch_does_with_the_same_codes(made: tuple[str, Made]) -> None:
    engine, (model, _, folder) = made
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.run(x=PICTURES)["output_0"]
    assert answers(engine, folder) == pytest.approx(expected, abs=2e-5)


def test_onnx_runtime_computes_the_weights_once_as_it_opens_the_file(
    model: Model, tmp_path: Path
) -> None:
    EXACT["onnxruntime"].export(model, tmp_path, quiet)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    kinds = {node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node}
    assert not kinds & {"Cast", "Mul", "DequantizeLinear", "BatchNormalization"}


@pytest.mark.parametrize("engine", list(EXACT))
def test_the_same_codes_are_the_same_bytes(engine: str, model: Model, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        EXACT[engine].export(model, tmp_path / name, quiet)
        files.append([file.read_bytes() for file in sorted((tmp_path / name).iterdir())])
    assert files[0] == files[1]


@pytest.mark.parametrize(("engine", "scale_bytes"), [("onnxruntime", 4), ("openvino", 2)])
def test_a_byte_a_weight_and_a_scale_a_channel_are_planned_for(
    engine: str, scale_bytes: int, source: Model
) -> None:
    backend, scheme = EXACT[engine], {"grouped.weight": Scheme(8, 0)}
    saved = backend.size(source, {}) - backend.size(source, scheme)
    assert saved == 3 * 24 * 8 * 3 * 3 - scale_bytes * 24


def test_executorch_refuses_codes_of_convolutions_with_a_way_out(
    model: Model, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=r"quantize\.convolutions=false"):
        Executorch().export(model, tmp_path, quiet)


def test_a_convolution_is_swapped_in_with_its_own_shape(model: Model) -> None:
    reference = Reference(model)
    with reference.quantized(model.quantized):
        inside = reference.body.get_parameter("grouped.weight").numpy().copy()
    assert np.array_equal(inside, model.dense("grouped.weight"))


def test_a_dead_channel_below_the_smallest_scale_is_no_error() -> None:
    weight = np.full((1, 9), SMALLEST_SCALE / 4, np.float32)
    assert worst_group(quantize(weight, Scheme(8, 0)), weight) < 1


def test_a_group_of_zeros_has_to_stay_zero() -> None:
    weight = np.zeros((1, 9), np.float32)
    tensor = quantize(weight, Scheme(8, 0))
    other = dataclasses.replace(tensor, codes=tensor.codes + np.int8(1))
    assert worst_group(other, weight) == np.inf


def test_calibrated_passes_give_convolutions_the_codes_of_rounding(
    source: Model, tmp_path: Path
) -> None:
    from edgecompile.passes.quantize_gptq import QuantizeGptq

    result = QuantizeGptq(bits=8, scale_search=False)(source, tiny.work(tmp_path))
    nearest = rounded(source, tmp_path / "rtn", 8).quantized
    found = result.model.quantized
    assert {n: found[n].digest(n) for n in CONVOLUTIONS} == {
        n: nearest[n].digest(n) for n in CONVOLUTIONS
    }


def test_a_phone_gets_convolutions_as_floats_by_default(source: Model) -> None:
    table = target.find("mobile").quantize
    (choice,) = pass_choices(Recipe("net", Path()), "module", table)
    assert set(make_pass(choice).preview(source)) == {"head.weight"}


def test_the_errors_of_a_kernel_cancel_to_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 9)).astype(np.float32)
    tensor = quantize(weight, Scheme(8, 0), search=False)
    errors = weight / tensor.scales - balanced(weight, tensor, 9).codes
    assert np.abs(errors.sum(1)).max() < 0.501


def test_the_errors_of_a_channel_cancel_where_a_kernel_has_one_weight() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32)
    tensor = quantize(weight, Scheme(8, 0), search=False)
    errors = weight / tensor.scales - balanced(weight, tensor, 1).codes
    assert np.abs(errors.sum(1)).max() < 0.501


def test_balanced_codes_stay_within_the_limit_of_rounding_to_nearest() -> None:
    weight = np.random.default_rng(0).standard_normal((512, 9)).astype(np.float32)
    tensor = quantize(weight, Scheme(8, 0), search=False)
    assert worst_group(balanced(weight, tensor, 9), weight) < 1.25
