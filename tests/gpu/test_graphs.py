"""Graphs for GPUs hold the same codes and compute what transformers computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgecompile.backends import Export
from edgecompile.backends.onnx_graph import probe, storage
from edgecompile.backends.onnx_graph.placement import device_nodes
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.runtime import onnxruntime_device
from edgecompile.runtime.onnxruntime_decoder import cache_names
from edgecompile.runtime.onnxruntime_device import DeviceDecoder, DeviceLayout
from edgecompile.sources.huggingface import describe
from tests import tiny
from tests.backends import codes
from tests.backends.test_onnx_decoders import (
    CONFIGS,
    PROMPT,
    Case,
    answer_on_codes,
    make,
    manifest,
    quiet,
    rounded,
)

FULL = Onnxruntime(device="gpu", accuracy_level=1)
HALF = Onnxruntime(device="gpu", accuracy_level=1, compute_precision="float16")
CPU = Onnxruntime(accuracy_level=1)


CAPPED = ("gemma2",)


@pytest.fixture(scope="module", params=[kind for kind in CONFIGS if kind not in CAPPED])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("source"), *CONFIGS[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("source"), *CONFIGS["llama-tied"])


@pytest.mark.parametrize("kind", CAPPED)
def test_a_cap_on_scores_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    assert "attn_logit_softcapping is 2.0" in FULL.refusal(make(tmp_path, *CONFIGS[kind]).model)


def export(backend: Onnxruntime, model: Model, folder: Path) -> Export:
    folder.mkdir(exist_ok=True)
    return backend.export(model, folder, quiet)


def graph_of(folder: Path) -> onnx.GraphProto:
    return onnx.load(folder / storage.GRAPH, load_external_data=False).graph


def decoder(folder: Path, written: Export, step: int) -> DeviceDecoder:
    """The shipped loop, on the CPU's memory: `step` tokens a call."""
    session, options = onnxruntime.InferenceSession(folder / storage.GRAPH), written.options
    kind = np.dtype(options["kv_dtype"])
    layout = DeviceLayout(
        cache_names(options), (options["kv_heads"], options["head_size"]), kind, "input_ids",
        "seqlens_k", "total_sequence_length", "logits_start", "logits", kind, 320, 512,
        options.get("position_ids", ""),
    )  # fmt: skip
    return DeviceDecoder(session, layout, "cpu", step)


def run(folder: Path, written: Export, step: int) -> NDArray[np.float32]:
    return np.concatenate(list(decoder(folder, written, step).feed_all(PROMPT)))


@pytest.mark.parametrize("step", [len(PROMPT), 5])
def test_logits_on_codes_are_those_of_transformers(
    case: Case, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is grown twice on the way."""
    monkeypatch.setattr(onnxruntime_device, "FIRST_CAPACITY", 16)
    model = rounded(case.model)
    written = export(FULL, model, tmp_path)
    assert np.abs(run(tmp_path, written, step) - answer_on_codes(case, model)).max() < 1e-4


def test_float_logits_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    written = export(FULL, case.model, tmp_path)
    assert np.abs(run(tmp_path, written, len(PROMPT)) - case.expected).max() < 1e-4


def test_float16_logits_are_near_those_of_transformers(llama: Case, tmp_path: Path) -> None:
    model = rounded(llama.model)
    written = export(HALF, model, tmp_path)
    found, expected = run(tmp_path, written, len(PROMPT)), answer_on_codes(llama, model)
    assert 1e-6 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_every_node_of_a_decoder_reads_floats_or_looks_rows_up(case: Case, tmp_path: Path) -> None:
    """None is left to the CPU for its integers; the lengths are given instead."""
    export(FULL, rounded(case.model, Scheme(4, 32)), tmp_path)
    graph = graph_of(tmp_path)
    floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    floats |= {v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type != "Reshape":  # of a table of codes, folded when it is opened
            assert floats.intersection(node.input), node.name
        floats.update(node.output)


def test_a_decoders_inputs_are_ids_lengths_and_the_past(llama: Case, tmp_path: Path) -> None:
    written = export(FULL, llama.model, tmp_path)
    names = [port.name for port in written.inputs if not port.name.startswith("past")]
    assert names == ["input_ids", "seqlens_k", "total_sequence_length", "logits_start"]


@pytest.mark.parametrize("backend", [FULL, HALF])
@pytest.mark.parametrize("one", [None, Scheme(4, 32), Scheme(8, 0)])
def test_codes_and_scales_are_read_back_exactly(
    llama: Case, backend: Onnxruntime, one: Scheme | None, tmp_path: Path
) -> None:
    model = rounded(llama.model, one)
    found = backend.decode(tmp_path, manifest(model, export(backend, model, tmp_path)))
    assert {name: found.quantized[name].digest(name) for name in found.quantized} == {
        name: tensor.digest(name) for name, tensor in model.quantized.items()
    }


def test_a_float16_graph_has_no_float32(llama: Case, tmp_path: Path) -> None:
    written = export(HALF, rounded(llama.model), tmp_path)
    kinds = {tensor.data_type for tensor in graph_of(tmp_path).initializer}
    assert TensorProto.FLOAT not in kinds
    assert TensorProto.FLOAT16 in kinds
    assert written.options["kv_dtype"] == "float16"


def test_norms_in_float16_are_listed_as_such(llama: Case, tmp_path: Path) -> None:
    model = rounded(llama.model)
    entries = manifest(model, export(HALF, model, tmp_path))
    assert {entry["dtype"] for entry in entries["floats"]} == {"float16"}


def test_a_float16_file_is_smaller_and_its_size_is_foreseen(llama: Case, tmp_path: Path) -> None:
    model = rounded(llama.model)
    sizes = {}
    for name, backend in (("full", FULL), ("half", HALF)):
        export(backend, model, tmp_path / name)
        files = (tmp_path / name).iterdir()
        sizes[name] = sum(file.stat().st_size for file in files), backend.size(
            model, {n: t.scheme for n, t in model.quantized.items()}
        )
    assert sizes["half"][0] < sizes["full"][0]
    assert sizes["half"][1] < sizes["full"][1]


@pytest.mark.parametrize("backend", [FULL, HALF])
def test_the_same_model_gives_the_same_bytes(
    llama: Case, backend: Onnxruntime, tmp_path: Path
) -> None:
    model = rounded(llama.model)
    for name in ("a", "b"):
        export(backend, model, tmp_path / name)
    for file in (storage.GRAPH, storage.DATA, probe.FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_cpus_graph_is_what_it_was(llama: Case, tmp_path: Path) -> None:
    export(CPU, rounded(llama.model), tmp_path)
    kinds = {node.op_type for node in graph_of(tmp_path).node}
    assert {"ReduceSum", "Neg"} <= kinds
    assert not (tmp_path / probe.FILE).exists()


def encoder(folder: Path) -> Model:
    return describe(tiny.bert(folder), "tiny")


def encoded(folder: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(folder / storage.GRAPH)
    ids = np.array([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0]])
    values = {"input_ids": ids, "attention_mask": (ids > 0) * 1, "token_type_ids": ids * 0}
    feed = {port.name: values[port.name] for port in session.get_inputs()}
    found: NDArray[np.float32] = session.run(None, feed)[0]
    return found


@pytest.mark.slow
def test_an_encoder_in_float16_answers_in_float32_as_in_float32(tmp_path: Path) -> None:
    model = codes.rounded(encoder(tmp_path / "model"), tmp_path / "codes", 8)
    answers = {}
    for name, backend in (("full", FULL), ("half", HALF)):
        export(backend, model, tmp_path / name)
        answers[name] = encoded(tmp_path / name)
    assert answers["half"].dtype == np.float32
    assert 0 < np.abs(answers["half"] - answers["full"]).max() < 2e-3


@pytest.mark.slow
def test_an_encoder_marks_its_lookups_of_floats(tmp_path: Path) -> None:
    options = export(FULL, encoder(tmp_path / "model"), tmp_path / "out").options
    graph = graph_of(tmp_path / "out")
    tables = {t.name for t in graph.initializer if len(t.dims) == 2}
    gathers = [n.name for n in graph.node if n.op_type == "Gather" and n.input[0] in tables]
    assert gathers
    assert set(gathers) <= set(options["device_nodes"])


def typed_graph() -> onnx.GraphProto:
    """Integers become floats in a Cast; what reads the floats is marked, the Cast is not."""
    port = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axis"], ["wide"], "integers"),
        helper.make_node("Cast", ["wide"], ["mask"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Slice", ["mask", "axis", "axis"], ["part"], "cut"),
        helper.make_node("Greater", ["part", "part"], ["more"], "compare"),
        helper.make_node("Where", ["more", "ids", "ids"], ["out"], "choose"),
    ]
    ids = port("ids", TensorProto.INT64, [2])
    return helper.make_graph(nodes, "g", [ids], [port("out", TensorProto.INT64, [2])])


def test_what_reads_floats_is_told_from_the_types() -> None:
    assert device_nodes(typed_graph()) == ["compare", "cut"]


REFUSED: Mapping[str, Mapping[str, Any]] = {
    'are for device = "gpu"': {"compute_precision": "float16"},
    "provider 'rocm' is not one of cuda": {"device": "gpu", "providers": ("rocm",)},
    "reduced builds on the CPU": {"device": "gpu", "format": "ort"},
    "products for the CPU": {"device": "gpu", "activations": "dynamic"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_options_that_do_not_fit_are_refused(llama: Case, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        export(Onnxruntime(**REFUSED[reason]), llama.model, tmp_path)


def test_the_kv_cache_in_float16_takes_half_the_memory() -> None:
    assert (HALF.cache_value_bytes, FULL.cache_value_bytes) == (2.0, 4.0)
