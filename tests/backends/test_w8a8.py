"""8-bit activations in ONNX Runtime: the codes that were chosen, exact products, fused nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from edgecompile import bundle, sources
from edgecompile.backends import Export
from edgecompile.backends.onnx_graph import encode, storage
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.checks.limits import activation_column
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.passes.quantize_smooth import QuantizeSmooth
from edgecompile.reference import Reference
from edgecompile.runtime.cpu import has_vnni
from tests import tiny
from tests.backends.codes import rounded

IDS = [2, 10, 11, 12, 13, 3]
Made = tuple[Model, Export, Path, Onnxruntime]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def manifest(model: Model, export: Export) -> dict[str, Any]:
    return {
        "tensors": bundle.tensor_entries(model, export),
        "floats": bundle.float_entries(model, export),
        "engine": {"name": "onnxruntime", "options": dict(export.options)},
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tiny.bert(tmp_path_factory.mktemp("bert") / "m")
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def smooth(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return QuantizeSmooth(texts=16)(model, tiny.work(tmp_path_factory.mktemp("s"))).model


KINDS = ("dynamic", "smooth dynamic", "smooth static")


@pytest.fixture(scope="module")
def exports(
    model: Model, smooth: Model, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Made]:
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("out")
        chosen = smooth if "smooth" in kind else rounded(model, folder / "codes", 8)
        backend = Onnxruntime(activations=kind.split()[-1])  # type: ignore[arg-type]
        out = folder / "onnx"
        out.mkdir()
        made[kind] = chosen, backend.export(chosen, out, quiet), out, backend
    return made


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, exports: dict[str, Made]) -> Made:
    return exports[request.param]


def test_the_file_decodes_to_the_codes_that_were_chosen(made: Made) -> None:
    model, export, folder, backend = made
    found = backend.decode(folder, manifest(model, export))
    chosen = {name: tensor.digest(name) for name, tensor in model.quantized.items()}
    assert {name: tensor.digest(name) for name, tensor in found.quantized.items()} == chosen


def test_the_floats_decode_to_those_that_ship(made: Made) -> None:
    model, export, folder, backend = made
    found = backend.decode(folder, manifest(model, export))
    assert set(found.floats) | set(found.quantized) | set(export.unused) == set(model.weights)
    for name, values in found.floats.items():
        assert (values == model.dense(name)).all(), name


def session(folder: Path, **changes: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    for name, value in changes.items():
        setattr(options, name, value)
    file = str(folder / storage.GRAPH)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def embedding(folder: Path, tokens: list[int] = IDS) -> np.ndarray:
    ids = np.array([tokens])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    inputs["token_type_ids"] = np.zeros_like(ids)
    return np.asarray(session(folder).run(None, inputs)[0][0])


def test_an_embedding_is_close_to_that_of_torch_on_the_same_codes(made: Made) -> None:
    model, _, folder, _ = made
    # Words that static ranges were measured on: single tokens stand for others in each process.
    ids = Tokenizer.from_file(str(model.folder / "tokenizer.json")).encode(tiny.TEXT).ids[:48]
    with Reference(model).quantized(model.quantized, model.replaced) as reference:
        expected = reference.embed([ids])[0]
    assert float(embedding(folder, ids) @ expected) > 0.99


def test_the_engine_fuses_every_product(made: Made, tmp_path: Path) -> None:
    optimized = tmp_path / "optimized.onnx"
    session(made[2], optimized_model_filepath=str(optimized))
    kinds = [n.op_type for n in onnx.load(optimized, load_external_data=False).graph.node]
    integer = sum(kind in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul") for kind in kinds)
    assert integer == 8  # of each of two layers: q, k, v as one; output; up; down
    assert kinds.count("MatMul") + kinds.count("FusedMatMul") == 4  # attention's own
    assert "DequantizeLinear" not in kinds


def test_the_manifest_widens_the_export_limit(made: Made) -> None:
    assert activation_column(manifest(made[0], made[1])) == 2


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(exports: dict[str, Made], tmp_path: Path) -> None:
    made = exports["smooth static"]
    made[3].export(made[0], tmp_path, quiet)
    for name in (storage.GRAPH, storage.DATA):
        assert (tmp_path / name).read_bytes() == (made[2] / name).read_bytes(), name


def planted(folder: Path, to: Path, end: str, change: int) -> None:
    """A copy whose first tensor of that name's end has other values."""
    proto = onnx.load(folder / storage.GRAPH)
    tensor = next(t for t in proto.graph.initializer if t.name.endswith(end))
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(
        onnx.numpy_helper.from_array((values + change).astype(values.dtype), tensor.name)
    )
    storage.write(proto, to)


def test_a_wrong_zero_point_is_found(exports: dict[str, Made], tmp_path: Path) -> None:
    model, export, folder, backend = exports["smooth static"]
    planted(folder, tmp_path, ".range_zero", 1)
    with pytest.raises(BadInputError, match="range of its inputs"):
        dict(backend.decode(tmp_path, manifest(model, export)).quantized)


def test_static_activations_without_ranges_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no pass calibrated a range"):
        Onnxruntime(activations="static").export(model, tmp_path, quiet)


def test_factors_at_the_inputs_are_refused_for_blocks(smooth: Model) -> None:
    tensor = next(t for t in smooth.quantized.values() if t.inputs is not None)
    with pytest.raises(UnsupportedError, match="factors before the product"):
        encode.stored(tensor, "w")


@pytest.mark.slow
def test_a_pass_that_was_killed_goes_on_with_the_same_ranges(
    model: Model, smooth: Model, tmp_path: Path
) -> None:
    work = tiny.work(tmp_path / "w")
    first = QuantizeSmooth(texts=16)(model, work).model
    (work.folder / "codes-00001.safetensors").unlink()
    again = QuantizeSmooth(texts=16)(model, work).model
    assert again.activations == first.activations == smooth.activations
    digests = [{n: t.digest(n) for n, t in m.quantized.items()} for m in (first, again)]
    assert digests[0] == digests[1]


@pytest.mark.skipif(not has_vnni(), reason="needs u8 x s8 products of 32 bits")
def test_codes_of_127_do_not_saturate(tmp_path: Path) -> None:
    columns = 64
    value = onnx.helper.make_tensor_value_info
    stored = [
        onnx.numpy_helper.from_array(np.full((columns, 4), 127, np.int8), "codes"),
        onnx.numpy_helper.from_array(np.ones(4, np.float32), "scales"),
    ]
    node = onnx.helper.make_node(
        "DynamicQuantizeMatMul", ["x", "codes", "scales"], ["y"], domain="com.microsoft"
    )
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, [1, columns])], [value("y", 1, [1, 4])], stored
    )
    domains = [onnx.helper.make_opsetid(name, n) for name, n in (("", 21), ("com.microsoft", 1))]
    storage.write(onnx.helper.make_model(graph, opset_imports=domains, ir_version=10), tmp_path)
    rows = np.full((1, columns), 255.0, np.float32)  # codes of 255
    found = session(tmp_path).run(None, {"x": rows})[0]
    assert (found == 255.0 * 127 * columns).all()


def test_ranges_come_with_every_smoothed_product(smooth: Model) -> None:
    linears = [n for n in smooth.quantized if "embeddings" not in n]
    assert set(smooth.activations) == set(linears)
