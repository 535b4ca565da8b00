"""OpenVINO's files hold the chosen codes, compressed, and answer as torch does on those codes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from edgecompile import bundle, facts, sources
from edgecompile.backends import Export
from edgecompile.backends.openvino import Openvino
from edgecompile.backends.openvino_graph import ir, storage
from edgecompile.checks import sealed
from edgecompile.checks.limits import activation_column
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes.quantize_smooth import QuantizeSmooth
from edgecompile.reference import Reference
from tests import tiny
from tests.backends.codes import rounded

IDS = [[2, 10, 11, 12, 13, 3], [2, 20, 3]]
FLOATS = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Made:
    """A model, its file, and the backend that wrote it."""

    model: Model
    export: Export
    folder: Path
    backend: Openvino
    quantized_by: str = "quantize_rtn"

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "tensors": (tensors := bundle.tensor_entries(self.model, self.export)),
            "weights_digest": bundle.weights_digest((t["name"], t["sha256"]) for t in tensors),
            "floats": bundle.float_entries(self.model, self.export),
            "facts": facts.of_config(self.model.config),
            "engine": {"name": "openvino", "options": dict(self.export.options)},
            "unused": dict(self.export.unused),
            "passes": [{"name": self.quantized_by, "layers": []}],
        }  # fmt: skip

    def failed(self, folder: Path) -> list[str]:
        """Metrics of step 0 that differ for the files in `folder`."""
        decoded = self.backend.decode(folder, self.manifest)
        rows = sealed.rows(decoded, self.manifest, self.model, self.model.quantized)
        return [row.metric for row in rows if row.verdict == "fail"]


Find = Callable[[str], Made]


def make(model: Model, folder: Path, backend: Openvino) -> Made:
    folder.mkdir(parents=True)
    return Made(model, backend.export(model, folder, quiet), folder, backend)


def loaded(folder: Path, task: str = "") -> Model:
    return sources.load(sources.resolve(str(folder), task=task), quiet)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tiny.bert(tmp_path_factory.mktemp("bert") / "m")
    # Training numbers the words otherwise each time, and ranges are calibrated on their ids.
    table = json.loads((folder / "tokenizer.json").read_text())
    special = sorted(table["added_tokens"], key=lambda token: token["id"])
    order = [token["content"] for token in special]
    order += sorted(set(table["model"]["vocab"]) - set(order))
    table["model"]["vocab"] = {word: at for at, word in enumerate(order)}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    return loaded(folder)


@pytest.fixture(scope="module")
def find(bert: Model, tmp_path_factory: pytest.TempPathFactory) -> Find:
    """A file by kind, made once."""

    @functools.cache
    def found(kind: str) -> Made:
        folder = tmp_path_factory.mktemp(kind)
        if kind == "static":
            model = QuantizeSmooth(texts=16)(bert, tiny.work(folder / "work")).model
        else:
            source = bert if "encoder" in kind else loaded(tiny.llama(folder / "m"))
            model = rounded(source, folder / "codes", int(kind[-1]))
        done = make(model, folder / "out", Openvino())
        return replace(done, quantized_by="quantize_smooth") if kind == "static" else done

    return found


@pytest.fixture(params=["encoder-4", "encoder-8", "static", "decoder-4", "decoder-8"])
def made(request: pytest.FixtureRequest, find: Find) -> Made:
    return find(request.param)


@pytest.fixture(params=["encoder-4", "encoder-8"])
def encoder(request: pytest.FixtureRequest, find: Find) -> Made:
    return find(request.param)


@pytest.fixture(params=["decoder-4", "decoder-8"])
def decoder(request: pytest.FixtureRequest, find: Find) -> Made:
    return find(request.param)


@pytest.fixture
def static(find: Find) -> Made:
    return find("static")


def test_step_0_finds_the_codes_floats_and_facts_that_were_chosen(made: Made) -> None:
    decoded = made.backend.decode(made.folder, made.manifest)
    rows = list(sealed.rows(decoded, made.manifest, made.model, made.model.quantized))
    assert [row.metric for row in rows if row.verdict == "fail"] == []
    compared = {row.metric: row.samples for row in rows}
    assert compared["codes_differing"] == len(made.model.quantized)
    assert compared["tensors_missing"] == len(made.model.weights)


def test_a_decoder_states_its_layers_heads_epsilon_and_rope(decoder: Made) -> None:
    found = decoder.backend.decode(decoder.folder, decoder.manifest).facts
    expected = facts.of_config(decoder.model.config)
    assert set(found) == {
        "norm_eps", "norm_eps_spread", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "rope_theta",
    }  # fmt: skip
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)


@pytest.mark.parametrize("end", [".codes", ".scales", ".weight"])
def test_step_0_finds_one_changed_byte(made: Made, end: str, tmp_path: Path) -> None:
    layers = [n for n in ir.Graph(made.folder).constants.values() if n.name.endswith(end)]
    for name in (storage.GRAPH, storage.DATA):
        (tmp_path / name).write_bytes((made.folder / name).read_bytes())
    place = int(layers[-1].attributes["offset"]) + 1
    data = bytearray((tmp_path / storage.DATA).read_bytes())
    data[place] ^= 0x10
    (tmp_path / storage.DATA).write_bytes(data)
    metric = "floats_differing" if end == ".weight" else "codes_differing"
    assert metric in made.failed(tmp_path)


def test_codes_that_another_scale_multiplies_are_refused(encoder: Made, tmp_path: Path) -> None:
    """The graph's edges count, not its names alone."""
    text = (encoder.folder / storage.GRAPH).read_text()
    one, other = "encoder.layer.0.output.dense.weight", "encoder.layer.1.output.dense.weight"
    for end in (".scales", ".scales.float"):
        text = text.replace(f'"{one}{end}"', '"#"').replace(f'"{other}{end}"', f'"{one}{end}"')
        text = text.replace('"#"', f'"{other}{end}"')
    (tmp_path / storage.GRAPH).write_text(text)
    (tmp_path / storage.DATA).write_bytes((encoder.folder / storage.DATA).read_bytes())
    with pytest.raises(BadInputError, match="codes \\*"):
        encoder.failed(tmp_path)


def test_a_file_that_is_no_graph_of_openvino_is_refused(encoder: Made, tmp_path: Path) -> None:
    for text in ("<net", '<!DOCTYPE net [<!ENTITY a "a">]><net/>'):
        (tmp_path / storage.GRAPH).write_text(text)
        with pytest.raises(BadInputError, match=storage.GRAPH):
            encoder.backend.decode(tmp_path, encoder.manifest)


def test_a_constant_outside_the_file_is_refused(encoder: Made, tmp_path: Path) -> None:
    (tmp_path / storage.GRAPH).write_bytes((encoder.folder / storage.GRAPH).read_bytes())
    (tmp_path / storage.DATA).write_bytes(b"\0" * 1000)
    with pytest.raises(BadInputError, match="ends at"):
        encoder.failed(tmp_path)


def test_the_same_model_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    """Nodes are counted through a process, so the second export would show the counter."""
    made.backend.export(made.model, tmp_path, quiet)
    for name in (storage.GRAPH, storage.DATA):
        assert (tmp_path / name).read_bytes() == (made.folder / name).read_bytes(), name


def test_the_file_says_nothing_of_where_and_when_it_was_made(made: Made) -> None:
    text = (made.folder / storage.GRAPH).read_text()
    assert str(made.folder) not in text
    assert "<rt_info />" in text
    assert "Runtime_version" not in text


def compiled(folder: Path, **changes: Any) -> ov.CompiledModel:
    settings = {**FLOATS, "KV_CACHE_PRECISION": "f32", **changes}
    return ov.Core().compile_model(str(folder / storage.GRAPH), "CPU", settings)


def embedding(folder: Path, **changes: Any) -> np.ndarray:
    padded = np.array([IDS[0], [*IDS[1], 0, 0, 0]])
    inputs = {"input_ids": padded, "attention_mask": (padded > 0).astype(np.int64)}
    inputs["token_type_ids"] = np.zeros_like(padded)
    return np.asarray(compiled(folder, **changes)(inputs)["sentence_embedding"])


def expected(made: Made) -> np.ndarray:
    with Reference(made.model).quantized(made.model.quantized, made.model.replaced) as reference:
        return reference.embed(IDS)


def test_an_embedding_is_that_of_torch_on_the_same_codes(encoder: Made) -> None:
    assert embedding(encoder.folder) == pytest.approx(expected(encoder), abs=2e-5)


def test_8_bit_activations_stay_close_to_torch(encoder: Made, static: Made) -> None:
    for made in (encoder, static):
        found = embedding(made.folder, DYNAMIC_QUANTIZATION_GROUP_SIZE="32")
        assert (found * expected(made)).sum(axis=1).min() > 0.98


def kinds(folder: Path, **changes: Any) -> list[str]:
    """Kind and inner precision of every node that the engine runs."""
    model = compiled(folder, PERF_COUNT=True, **changes)
    request = model.create_infer_request()
    inputs = {port: np.ones([1] * len(port.partial_shape), port.get_element_type().to_dtype())
              for port in model.inputs}  # fmt: skip
    request.infer(inputs)
    return [f"{info.node_type} {info.exec_type}" for info in request.profiling_info]


def test_products_run_on_compressed_weights(encoder: Made) -> None:
    found = kinds(encoder.folder)
    assert sum(kind.startswith("FullyConnectedCompressed") for kind in found) == 12
    assert sum(kind.startswith("GatherCompressed") for kind in found) == 1
    assert not any(kind.startswith("FullyConnected ") for kind in found)


def test_static_products_are_of_integers(static: Made) -> None:
    found = [kind for kind in kinds(static.folder) if kind.startswith("FullyConnected")]
    assert len(found) == 12
    assert all(kind.lower().endswith("i8") for kind in found)


def test_a_decoder_runs_on_fused_operators(decoder: Made) -> None:
    found = kinds(decoder.folder)
    counted = {name: sum(kind.startswith(name) for kind in found) for name in (
        "RMS", "RoPE", "ScaledDotProductAttentionWithKVCache", "FullyConnectedCompressed",
        "GatherCompressed", "MatMul", "Softmax",
    )}  # fmt: skip
    assert list(counted.values()) == [5, 4, 2, 9, 1, 0, 0]


def test_a_tied_head_is_stored_once(decoder: Made) -> None:
    rows = decoder.model.weights.infos["model.embed_tokens.weight"].shape[0]
    graph = ir.Graph(decoder.folder)
    stored = [n.name for n in graph.constants.values()
              if n.name.endswith(".codes") and graph.shape(n)[0] == rows]  # fmt: skip
    assert stored == ["model.embed_tokens.weight.codes"]


def test_the_size_of_a_file_is_known_within_fifteen_percent(tmp_path: Path) -> None:
    model = loaded(tiny.llama(tmp_path / "m", hidden_size=256, num_key_value_heads=4))
    made = make(rounded(model, tmp_path / "codes", 4), tmp_path / "out", Openvino())
    schemes = {name: tensor.scheme for name, tensor in made.model.quantized.items()}
    written = sum(file.stat().st_size for file in made.folder.iterdir())
    assert made.backend.size(made.model, schemes) == pytest.approx(written, rel=0.15)


def test_a_range_that_is_not_the_manifests_is_refused(static: Made) -> None:
    manifest = static.manifest
    ranges = dict(manifest["engine"]["options"]["ranges"])
    name = next(iter(ranges))
    manifest["engine"]["options"]["ranges"] = ranges | {name: [ranges[name][0] * 2, 0]}
    with pytest.raises(BadInputError, match="range of its inputs"):
        static.backend.decode(static.folder, manifest).quantized[name]


def test_the_manifest_says_which_limits_apply(bert: Model, static: Made, encoder: Made) -> None:
    assert activation_column(static.manifest) == 2
    assert activation_column(encoder.manifest) == 1
    exact = replace(encoder.export, options={"precision": "float32"})
    assert activation_column(replace(encoder, export=exact).manifest) == 0


def test_static_activations_need_calibrated_ranges(encoder: Made, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"quantize\.method=smooth"):
        Openvino(activations="static").export(encoder.model, tmp_path, quiet)


def test_static_activations_of_a_decoder_are_refused(decoder: Made, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="static activations of a decoder"):
        Openvino(activations="static").export(decoder.model, tmp_path, quiet)


def test_bits_that_the_engine_lacks_are_refused(bert: Model, tmp_path: Path) -> None:
    name = "encoder.layer.0.output.dense.weight"
    codes = {name: quantize(bert.weights.float32(name), Scheme(2, 32))}
    with pytest.raises(UnsupportedError, match="2 bits"):
        Openvino().export(replace(bert, quantized=codes), tmp_path, quiet)


@pytest.mark.parametrize(
    ("kind", "size"), [("encoder-8", 64), ("encoder-4", 32), ("decoder-8", 32)]
)
def test_the_group_of_activations_is_the_largest_that_every_product_has(
    kind: str, size: int, find: Find
) -> None:
    """Columns are 64 and 128: a row's scale allows 64, but not in decoders; a group's allows 32."""
    assert find(kind).export.options["dynamic_group"] == size


def test_a_group_that_the_engine_would_not_use_is_refused(find: Find, tmp_path: Path) -> None:
    """It would compute with floats, silently."""
    with pytest.raises(UnsupportedError, match="groups of 32"):
        Openvino(group=64).export(find("encoder-4").model, tmp_path, quiet)


def test_factors_that_a_decoder_has_no_place_for_are_refused(find: Find, tmp_path: Path) -> None:
    model = find("decoder-8").model
    name = "model.layers.0.mlp.down_proj.weight"
    one = model.quantized[name]
    factors = np.full(one.codes.shape[1], 2, np.float32)
    codes = {**model.quantized, name: replace(one, inputs=factors)}
    with pytest.raises(UnsupportedError, match=r"quantize\.factors=false"):
        Openvino().export(replace(model, quantized=codes), tmp_path, quiet)
