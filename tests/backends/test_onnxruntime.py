"""ONNX bundles hold the chosen codes and answer as torch does on those codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgecompile import bundle, facts, sources
from edgecompile.backends import Export
from edgecompile.backends.onnx_graph import encode, storage
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.backends.packing import unpack
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme
from edgecompile.reference import Reference
from tests import tiny
from tests.backends.codes import rounded

EXACT = Onnxruntime(accuracy_level=1)
Made = tuple[Model, Export, Path]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def manifest(model: Model, export: Export) -> Mapping[str, Any]:
    return {
        "tensors": bundle.tensor_entries(model, export),
        "floats": bundle.float_entries(model, export),
        "engine": {"options": dict(export.options)},
    }


def export(folder: Path, bits: int, task: str = "") -> Made:
    model = sources.load(sources.resolve(str(folder), task=task), quiet)
    model = rounded(model, folder.with_name(f"{folder.name}-codes-{bits}"), bits)
    out = folder.parent / f"{folder.name}-onnx-{bits}"
    out.mkdir()
    return model, EXACT.export(model, out, quiet), out


@pytest.fixture(scope="module", params=[4, 8])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return export(tiny.llama(tmp_path_factory.mktemp("llama") / "m"), request.param)


@pytest.fixture(scope="module", params=[4, 8])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return export(tiny.bert(tmp_path_factory.mktemp("bert") / "m"), request.param)


def decoded_is_chosen(made: Made) -> None:
    model, written, folder = made
    found = EXACT.decode(folder, manifest(model, written))
    chosen = {name: tensor.digest(name) for name, tensor in model.quantized.items()}
    assert {name: tensor.digest(name) for name, tensor in found.quantized.items()} == chosen


def test_a_decoder_file_decodes_to_the_codes_that_were_chosen(decoder: Made) -> None:
    decoded_is_chosen(decoder)


def test_an_encoder_file_decodes_to_the_codes_that_were_chosen(encoder: Made) -> None:
    decoded_is_chosen(encoder)


def test_every_source_tensor_is_in_the_file_or_named_as_unused(encoder: Made) -> None:
    model, written, folder = encoder
    found = EXACT.decode(folder, manifest(model, written))
    there = found.quantized.keys() | found.floats.keys() | written.unused.keys()
    assert there == set(model.weights)


def test_hyperparameters_are_found_again_in_the_file(decoder: Made) -> None:
    model, written, folder = decoder
    expected, found = (
        facts.of_config(model.config),
        EXACT.decode(folder, manifest(model, written)).facts,
    )
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)


def test_an_embedding_is_that_of_torch_on_the_same_codes(encoder: Made) -> None:
    model, _, folder = encoder
    session = onnxruntime.InferenceSession(folder / storage.GRAPH)
    ids = [[2, 10, 11, 12, 13, 3], [2, 20, 3]]
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.embed(ids)
    padded = np.array([ids[0], [*ids[1], 0, 0, 0]])
    inputs = {"input_ids": padded, "attention_mask": (padded > 0).astype(np.int64)}
    inputs["token_type_ids"] = np.zeros_like(padded)
    assert session.run(None, inputs)[0] == pytest.approx(expected, abs=2e-5)


def logits(session: Any, layers: int, ids: list[int], keep: int) -> np.ndarray:
    past = np.zeros((1, 2, 0, 16), np.float32)
    inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    inputs["last_tokens"] = np.array([keep])
    for layer in range(layers):
        inputs |= {f"past_key_values.{layer}.key": past, f"past_key_values.{layer}.value": past}
    return np.asarray(session.run(["logits"], inputs)[0][0])


def test_logits_are_those_of_torch_on_the_same_codes(decoder: Made) -> None:
    model, _, folder = decoder
    session = onnxruntime.InferenceSession(folder / storage.GRAPH)
    ids = [5, 6, 7, 8, 9, 40, 41]
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.logits(ids)
    assert logits(session, 2, ids, len(ids)) == pytest.approx(expected, abs=1e-3)


def test_only_the_logits_that_were_asked_for_are_computed(decoder: Made) -> None:
    session = onnxruntime.InferenceSession(decoder[2] / storage.GRAPH)
    whole, last = (logits(session, 2, [5, 6, 7, 8], keep) for keep in (4, 1))
    assert last == pytest.approx(whole[-1:], abs=1e-5)


def test_a_tied_head_is_stored_once(decoder: Made) -> None:
    graph = onnx.load(decoder[2] / storage.GRAPH, load_external_data=False).graph
    rows = decoder[0].weights.infos["model.embed_tokens.weight"].shape[0]
    stored = [
        t.name for t in graph.initializer if t.dims and t.dims[0] == rows and len(t.dims) == 3
    ]
    assert stored == ["model.embed_tokens.weight.codes"]


def test_the_same_model_gives_the_same_bytes(decoder: Made, tmp_path: Path) -> None:
    EXACT.export(decoder[0], tmp_path, quiet)
    for name in (storage.GRAPH, storage.DATA):
        assert (tmp_path / name).read_bytes() == (decoder[2] / name).read_bytes(), name


def test_the_size_of_a_small_file_is_known_within_fifteen_percent(tmp_path: Path) -> None:
    made = export(tiny.llama(tmp_path / "m", hidden_size=256, num_key_value_heads=4), 4)
    schemes = {name: tensor.scheme for name, tensor in made[0].quantized.items()}
    written = sum(file.stat().st_size for file in made[2].iterdir())
    # A small file: pages of 4 KiB weigh more than in a real one.
    assert EXACT.size(made[0], schemes) == pytest.approx(written, rel=0.15)


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_undone_by_unpacking(bits: int) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
    tensor = quantize(weight, Scheme(bits, 32))
    packed = encode.packed_codes(tensor, 32).reshape(6, -1)
    assert (unpack(packed, bits) == tensor.codes).all()


def test_a_group_size_that_the_operator_lacks_is_refused() -> None:
    tensor = quantize(np.ones((2, 96), np.float32), Scheme(4, 24))
    with pytest.raises(UnsupportedError, match="group size 24"):
        encode.block_size(tensor.scheme, 96, "w")
