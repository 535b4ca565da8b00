"""Write a graph and its weights to two files, the same bytes from the same graph."""
from __future__ import annotations

from pathlib import Path

import onnx

GRAPH = "model.onnx"
DATA = "model.onnx.data"
ALIGNMENT = 4096  # a page: onnxruntime maps each tensor from the file
SMALLEST_EXTERNAL = 1024  # bytes


def write(model: onnx.ModelProto, folder: Path) -> None:
    """model.onnx and model.onnx.data; tensors in the order of the graph's first use of them."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _canonical(proto)
    with (folder / DATA).open("wb") as stream:
        for tensor in proto.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < SMALLEST_EXTERNAL:
                continue
            stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
            _point(tensor, stream.tell(), len(raw))
            stream.write(raw)
    (folder / GRAPH).write_bytes(proto.SerializeToString(deterministic=True))


def _point(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", DATA), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


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
