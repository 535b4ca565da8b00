"""Changes of a bundle's files, each of one kind of file; whoever calls them seals it again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
from numpy.typing import NDArray

from edgecompile import facts
from edgecompile.backends.executorch_graph.pte_read import PteReader
from edgecompile.backends.executorch_graph.scope import FILE
from edgecompile.backends.openvino_graph import ir
from edgecompile.numerics.schemes import QuantizedTensor
from tests.faults.planting import Plant
from tests.faults.twins import Clean, loaded, read_manifest

Array = NDArray[Any]
Change = Callable[[dict[str, Any], float], None]
RUNTIME = "runtime/edgecompile_runtime"


# Whole bundles


def from_wrong_source(change: Change) -> Plant:
    """The bundle of a copy of the source in which `change` has altered tensors, by name.

    Its manifest names the true source.
    """

    def plant(folder: Path, clean: Clean, magnitude: float) -> None:
        from safetensors.torch import load_file, save_file

        wrong = folder.parent / "wrong" / clean.source_folder.name
        shutil.copytree(clean.source_folder, wrong)
        tensors = load_file(wrong / "model.safetensors")
        change(tensors, magnitude)
        whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, wrong / "model.safetensors", {"format": "pt"})
        _rebuilt(folder, clean, wrong)

    return plant


def from_wrong_config(change: Change) -> Plant:
    """The bundle of a copy of the source whose config.json `change` has altered."""

    def plant(folder: Path, clean: Clean, magnitude: float) -> None:
        wrong = folder.parent / "wrong" / clean.source_folder.name
        shutil.copytree(clean.source_folder, wrong)
        config = json.loads((wrong / "config.json").read_text("utf-8"))
        change(config, magnitude)
        (wrong / "config.json").write_text(json.dumps(config), encoding="utf-8")
        _rebuilt(folder, clean, wrong)

    return plant


def _rebuilt(folder: Path, clean: Clean, wrong: Path) -> None:
    model = loaded(wrong, clean.twin.model)
    made = clean.built(dataclasses.replace(model, name=clean.source.name), wrong.parent / "made")
    _put(made, folder)
    with manifest(folder) as found:
        found["source"]["digest"] = clean.source.source.digest
        found["facts"] = facts.of_config(clean.source.config)


def from_wrong_codes(change: Callable[[dict[str, QuantizedTensor], float], None]) -> Plant:
    """The bundle of codes that `change` has altered after the quantize stage chose them."""

    def plant(folder: Path, clean: Clean, magnitude: float) -> None:
        assert clean.result is not None, clean.twin
        model = clean.result.model
        codes = dict(model.quantized)
        change(codes, magnitude)
        model = dataclasses.replace(model, quantized=codes)
        _put(clean.exported(model, clean.result, folder.parent / "made"), folder)

    return plant


def _put(made: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    made.rename(folder)


# Files


@contextmanager
def manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """manifest.json as a table, written again."""
    found = read_manifest(folder)
    yield found
    (folder / "manifest.json").write_text(json.dumps(found), encoding="utf-8")


@contextmanager
def table(file: Path) -> Iterator[dict[str, Any]]:
    """A JSON file (tokenizer.json), written again."""
    found = json.loads(file.read_text("utf-8"))
    yield found
    file.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def runtime(folder: Path, file: str, old: str, new: str) -> None:
    """Other source text in the bundle's own runtime; `old` must be there exactly once."""
    path = folder / RUNTIME / file
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


@contextmanager
def graph(folder: Path) -> Iterator[onnx.GraphProto]:
    """The ONNX graph without its external data, written again."""
    file = folder / "model" / "model.onnx"
    model = onnx.load(str(file), load_external_data=False)
    yield model.graph
    file.write_bytes(model.SerializeToString(deterministic=True))


def nodes(found: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    """Its nodes of a kind, at least one."""
    chosen = [node for node in found.node if node.op_type == kind]
    assert chosen, f"no {kind} among {sorted({node.op_type for node in found.node})}"
    return chosen


def initializer(folder: Path, name: str, change: Callable[[Array], object]) -> None:
    """One of an ONNX graph's arrays through `change`, which writes into it."""
    with graph(folder) as found:
        (tensor,) = [one for one in found.initializer if one.name == name]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            array = onnx.numpy_helper.to_array(tensor).copy()
            change(array)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
            return
        where = {entry.key: entry.value for entry in tensor.external_data}
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        file, offset = folder / "model" / where["location"], int(where.get("offset", 0))
        mapped = np.memmap(file, kind, "r+", offset, tuple(tensor.dims))
        change(mapped)
        mapped.flush()


def constant(folder: Path, name: str, change: Callable[[Array], object]) -> None:
    """One of an OpenVINO graph's constants (not i4) through `change`."""
    found = ir.Graph(folder / "model")
    layer = found.constants[name]
    offset, _ = found.stored(layer)
    kind = ir.DTYPES[layer.attributes["element_type"]]
    file = folder / "model" / "openvino_model.bin"
    mapped = np.memmap(file, kind, "r+", offset, found.shape(layer))
    change(mapped)
    mapped.flush()


def xml(folder: Path, old: str, new: str) -> None:
    """Other text in an OpenVINO graph, wherever `old` is."""
    file = folder / "model" / "openvino_model.xml"
    text = file.read_text("utf-8")
    assert old in text, f"no {old!r} in the graph"
    file.write_text(text.replace(old, new), encoding="utf-8")


def named_data(folder: Path, key: str, kind: Any, change: Callable[[Array], object]) -> None:
    """The array that a .pte file holds under a key, which has a digest behind its #."""
    file = folder / "model" / FILE
    reader = PteReader(file)
    (name,) = [one for one in reader.named if one.partition("#")[0] == key]
    count = reader.segment(reader.named[name]).size // np.dtype(kind).itemsize
    mapped = np.memmap(file, kind, "r+", reader.data_at(name), (count,))
    change(mapped)
    mapped.flush()


def gguf_tensor(folder: Path, name: str, change: Callable[[Array], None]) -> None:
    """A GGUF file's tensor as it is stored (float32, or bytes of blocks [rows, bytes])."""
    reader = gguf.GGUFReader(folder / "model" / "model.gguf", "r+")
    (found,) = [one for one in reader.tensors if one.name == name]
    change(found.data)
    reader.data.flush()


def gguf_number(folder: Path, key: str, change: Callable[[float], float]) -> None:
    """A number of a GGUF file's metadata."""
    reader = gguf.GGUFReader(folder / "model" / "model.gguf", "r+")
    field = reader.fields[key]
    part = field.parts[field.data[0]]
    part[0] = change(part[0])
    reader.data.flush()
