"""Write a graph and its weights to two files, the same bytes from the same graph."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

GRAPH = "model.onnx"
DATA = "model.onnx.data"
ALIGNMENT = 4096  # a page: onnxruntime maps each tensor from the file
SMALLEST_EXTERNAL = 1024  # bytes


class DataFile:
    """model.onnx.data while it is written: tensors one after the other, each on a page of its own.

    Small tensors stay in the graph; equal ones are written once. Nothing is kept but digests and
    the headers that the graph needs.
    """

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / DATA).open("wb")
        self._offsets: dict[bytes, int] = {}  # by SHA-256 of what is there

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._stream.close()

    def add(self, name: str, *parts: NDArray[Any]) -> onnx.TensorProto:
        """An initializer of `parts` joined along their first axis, written one after the other."""
        first, size = parts[0], sum(part.nbytes for part in parts)
        if size < SMALLEST_EXTERNAL:
            whole = np.concatenate(parts) if len(parts) > 1 else first
            return onnx.numpy_helper.from_array(whole, name)
        shape = (sum(len(part) for part in parts), *first.shape[1:])
        kind = onnx.helper.np_dtype_to_tensor_dtype(first.dtype)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape)
        self._put(tensor, [np.ascontiguousarray(part).data.cast("B") for part in parts])
        return tensor

    def move(self, tensor: onnx.TensorProto) -> None:
        """Write an initializer's bytes here and leave a reference in their place."""
        raw = tensor.raw_data
        if len(raw) < SMALLEST_EXTERNAL:
            return
        tensor.ClearField("raw_data")
        self._put(tensor, [memoryview(raw)])

    def _put(self, tensor: onnx.TensorProto, parts: Sequence[memoryview]) -> None:
        """Write the bytes, unless they are there, and refer to them."""
        whole = hashlib.sha256()
        for part in parts:
            whole.update(part)
        if whole.digest() not in self._offsets:
            self._stream.write(b"\0" * (-self._stream.tell() % ALIGNMENT))
            self._offsets[whole.digest()] = self._stream.tell()
            self._stream.writelines(parts)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        length = sum(part.nbytes for part in parts)
        offset = self._offsets[whole.digest()]
        for key, value in (("location", DATA), ("offset", offset), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)


def write(model: onnx.ModelProto, folder: Path) -> None:
    """model.onnx and model.onnx.data; tensors in the order of the graph's first use of them."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _canonical(proto)
    with DataFile(folder) as data:
        for tensor in proto.graph.initializer:
            data.move(tensor)
    write_graph(proto, folder)


def write_graphs(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, str]:
    """`<name>.onnx` of each and one model.onnx.data, with equal bytes in it once; files by name."""
    with DataFile(folder) as data:
        for name, model in models.items():
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
            _canonical(proto)
            for tensor in proto.graph.initializer:
                data.move(tensor)
            (folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    return {name: f"{name}.onnx" for name in models}


def write_graph(proto: onnx.ModelProto, folder: Path) -> None:
    """model.onnx alone: its large tensors are in model.onnx.data already."""
    (folder / GRAPH).write_bytes(proto.SerializeToString(deterministic=True))


def _canonical(proto: onnx.ModelProto) -> None:
    """Drop what exporters write about themselves; order tensors by first use."""
    for field in ("doc_string", "metadata_props", "producer_version"):
        proto.ClearField(field)
    proto.producer_name = "edgecompile"
    proto.graph.ClearField("doc_string")
    proto.graph.ClearField("metadata_props")
    for item in [*proto.graph.node, *proto.graph.input, *proto.graph.output]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    order: dict[str, int] = {}
    for node in proto.graph.node:
        for name in node.input:
            order.setdefault(name, len(order))
    tensors = sorted(proto.graph.initializer, key=lambda t: order.get(t.name, len(order)))
    tensors = [_raw(tensor) for tensor in tensors]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensors)


def _raw(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.HasField("raw_data") or tensor.data_type == onnx.TensorProto.STRING:
        tensor.ClearField("metadata_props")
        return tensor
    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
