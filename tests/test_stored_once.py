"""Weights are in a bundle once: writers share equal ones, the check finds what is there twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgecompile import registry, sources
from edgecompile.backends import Extent
from edgecompile.backends.executorch_graph import pte
from edgecompile.backends.onnx_graph import storage
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.backends.openvino_graph.storage import DATA, GRAPH
from edgecompile.checks import stored_once
from edgecompile.model import Model
from edgecompile.report import Row
from edgecompile.sources import tied
from tests import tiny

SHARING = ("onnxruntime", "openvino", "executorch")
GATE = "model.layers.{}.mlp.gate_proj.weight"  # 1024 x 512: 2.1 MB as floats, 0.5 MB in 8 bits


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def written(model: Model, backend: str, bundle: Path, **options: Any) -> dict[str, Any]:
    """Export into `bundle`/model; what a manifest says of the target."""
    (bundle / "model").mkdir(parents=True)
    registry.create("backends", backend, options, "test").export(model, bundle / "model", quiet)
    return {"target_options": {"backend": backend, "options": options}}


def row(bundle: Path, manifest: dict[str, Any], *allow: str) -> Row:
    return next(iter(stored_once.rows(bundle, manifest, allow)))


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two layers of equal weights, as a model that was made deeper by repeating them has."""
    folder = tiny.llama(
        tmp_path_factory.mktemp("repeated"), hidden_size=512, intermediate_size=1024
    )
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if ".layers.1." in name:
            weights[name] = weights[name.replace(".1.", ".0.")].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return sources.load(sources.resolve(str(folder), task="text-generation"), quiet)


@pytest.mark.parametrize("backend", SHARING)
def test_equal_layers_are_written_once(repeated: Model, backend: str, tmp_path: Path) -> None:
    manifest = written(repeated, backend, tmp_path)
    found = row(tmp_path, manifest)
    assert (found.verdict, found.value) == ("pass", 0)
    size = sum(file.stat().st_size for file in (tmp_path / "model").iterdir())
    layer = 4 * 512 * (3 * 1024 + 2 * 512 + 2 * 256)  # bytes
    assert size < 1.3 * layer  # embedding and rotary tables are small


@pytest.mark.parametrize("backend", ["gguf", "null"])
def test_a_format_that_cannot_share_fails_with_both_names(
    repeated: Model, backend: str, tmp_path: Path
) -> None:
    found = row(tmp_path, written(repeated, backend, tmp_path))
    assert found.verdict == "fail"
    assert found.value == 5  # gate, up, down, q, o; k and v have 0.5 MB
    pairs = re.findall(r"(\S+)\.0\.(\S+) = (\S+)\.1\.(\S+) \((\d\.\d) MB\)", found.detail)
    assert len(pairs) == 5
    assert all(one[:2] == one[2:4] for one in pairs)
    assert "--allow duplicates" in found.detail


def test_duplicates_can_be_allowed_by_name(repeated: Model, tmp_path: Path) -> None:
    manifest = written(repeated, "gguf", tmp_path)
    found = row(tmp_path, manifest, stored_once.DUPLICATES)
    assert (found.verdict, found.value) == ("measured", 5)
    assert found.detail == "allowed by name: duplicates"


def test_a_graph_with_shared_layers_answers_as_the_source(repeated: Model, tmp_path: Path) -> None:
    import onnxruntime

    from edgecompile.reference import Reference

    written(repeated, "onnxruntime", tmp_path, accuracy_level=1)
    session = onnxruntime.InferenceSession(str(tmp_path / "model" / storage.GRAPH))
    ids = [5, 9, 200, 31]
    past = {
        i.name: np.zeros((1, 2, 0, 128), np.float32)
        for i in session.get_inputs() if i.name.startswith("past")
    }  # fmt: skip
    fed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, 4), np.int64)}
    found = session.run(["logits"], {**fed, **past, "last_tokens": np.array([4])})[0]
    assert np.asarray(found)[0] == pytest.approx(Reference(repeated).logits(ids), abs=2e-3)


def test_a_second_copy_in_an_onnx_file_is_found(tmp_path: Path) -> None:
    model = large(tmp_path / "m")
    manifest = written(model, "onnxruntime", tmp_path)
    assert row(tmp_path, manifest).verdict == "pass"
    file, data = tmp_path / "model" / storage.GRAPH, tmp_path / "model" / storage.DATA
    proto = onnx.load(str(file), load_external_data=False)
    planted = next(t for t in proto.graph.initializer if t.name == GATE.format(0))
    place = {entry.key: entry for entry in planted.external_data}
    start, size = int(place["offset"].value), int(place["length"].value)
    whole = data.read_bytes()
    copy = proto.graph.initializer.add()
    copy.CopyFrom(planted)
    copy.name = "decode.gate"
    next(e for e in copy.external_data if e.key == "offset").value = str(len(whole))
    data.write_bytes(whole + whole[start : start + size])
    file.write_bytes(proto.SerializeToString())
    assert row(tmp_path, manifest).detail.startswith(f"{GATE.format(0)} = decode.gate (2.1 MB)")


def test_a_second_copy_in_an_openvino_file_is_found(tmp_path: Path) -> None:
    manifest = written(large(tmp_path / "m"), "openvino", tmp_path)
    assert row(tmp_path, manifest).verdict == "pass"
    data, graph = tmp_path / "model" / DATA, tmp_path / "model" / GRAPH
    whole, text = data.read_bytes(), graph.read_text()
    const = re.search(rf'<layer id="\d+" name="{re.escape(GATE.format(0))}".*?</layer>', text, re.S)
    assert const is not None
    offset, size = (int(re.search(rf'{k}="(\d+)"', const[0])[1]) for k in ("offset", "size"))  # type: ignore[index]
    data.write_bytes(whole + whole[offset : offset + size])
    copy = re.sub(r'id="\d+" name="[^"]+"', 'id="90000" name="decode.gate"', const[0])
    copy = copy.replace(f'offset="{offset}"', f'offset="{len(whole)}"')
    graph.write_text(text.replace(const[0], const[0] + copy))
    assert row(tmp_path, manifest).detail.startswith(f"{GATE.format(0)} = decode.gate (2.1 MB)")


def test_a_second_copy_in_an_executorch_file_is_found(
    repeated: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(dict[bytes, int]):
        def __contains__(self, key: object) -> bool:
            return False

    start = pte.PteFile.__init__

    def forgetful(self: pte.PteFile, folder: Path) -> None:
        start(self, folder)
        self._there = Forgetful()

    monkeypatch.setattr(pte.PteFile, "__init__", forgetful)
    found = row(tmp_path, written(repeated, "executorch", tmp_path))
    assert (found.verdict, found.value) == ("fail", 5)
    assert "model.layers.1.mlp.down_proj.weight" in found.detail


def test_an_ort_file_is_looked_into(repeated: Model, tmp_path: Path) -> None:
    found = row(tmp_path, written(repeated, "onnxruntime", tmp_path, format="ort"))
    assert found.verdict == "fail"  # ONNX Runtime puts a tensor into the file for each name
    assert found.value == 5


def test_ranges_of_one_size_are_compared_by_content() -> None:
    one, other = np.zeros(9_000_000, np.uint8), np.zeros(9_000_000, np.uint8)
    other[-1] = 1
    extents = [Extent(name, ("f", at), a) for at, (name, a) in enumerate(
        [("a", one), ("b", other), ("c", one), ("d", one[:-1]), ("e", other.copy())]
    )]  # fmt: skip
    found = [(x.name, y.name) for x, y in stored_once.duplicates(extents)]
    assert found == [("a", "c"), ("b", "e")]


def untied(folder: Path, equal: bool) -> Path:
    """A Llama whose config does not tie the head, which holds the embedding's values or others."""
    tiny.llama(folder, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    if equal:
        weights[tied.HEAD] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_head_that_equals_the_embedding_is_tied(tmp_path: Path) -> None:
    model = sources.load(sources.resolve(str(untied(tmp_path / "m", equal=True))), quiet)
    assert tied.HEAD not in model.weights
    assert model.config["tie_word_embeddings"] is True
    assert tied.NOTE in model.source.notes
    found = row(tmp_path, written(model, "gguf", tmp_path))
    assert found.verdict == "pass"


def test_another_head_is_left_alone(tmp_path: Path) -> None:
    model = sources.load(sources.resolve(str(untied(tmp_path / "m", equal=False))), quiet)
    assert tied.HEAD in model.weights
    assert model.source.notes == ()


def large(folder: Path) -> Model:
    """A tied Llama whose matrices take over a megabyte as floats."""
    tiny.llama(folder, hidden_size=512, intermediate_size=1024, vocab_size=1024)
    torch.manual_seed(1)
    return sources.load(sources.resolve(str(folder), task="text-generation"), quiet)


def test_the_writer_of_onnx_data_shares_equal_tensors(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.float32)
    with storage.DataFile(tmp_path) as data:
        made = [data.add(n, v) for n, v in (("a", values), ("b", values + 1), ("c", values))]
    offsets = [{e.key: e.value for e in tensor.external_data}["offset"] for tensor in made]
    assert offsets == ["0", "16384", "0"]
    assert (tmp_path / storage.DATA).stat().st_size == 2 * 16384


def test_extents_are_mapped_not_read(tmp_path: Path) -> None:
    written(large(tmp_path / "m"), "onnxruntime", tmp_path)
    found = list(Onnxruntime().extents(tmp_path / "model"))
    assert any(isinstance(extent.data.base, np.memmap) for extent in found)
