"""ONNX Runtime's own file format (.ort), which its reduced builds for phones open.

The format is a flatbuffer (onnxruntime/core/flatbuffers/schema/ort.fbs); the wheel has its reader.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from edgecompile.backends.onnx_graph import ort_canonical, storage
from edgecompile.errors import BadInputError, UnsupportedError

FILE, OPERATORS = "model.ort", "required_operators.config"
LARGEST = 2**31 - 1  # bytes: offsets in a flatbuffer are 32 bits, signed


def convert(folder: Path) -> None:
    """Put model.ort and the operators it needs in place of model.onnx and its data.

    Graph optimizations that a reduced build leaves out are done now, those for x86 alone are not.
    """
    import onnxruntime

    total = sum((folder / name).stat().st_size for name in (storage.GRAPH, storage.DATA))
    if total > LARGEST:
        raise UnsupportedError(
            "onnxruntime backend", f"{total / 1e9:.2f} GB in one .ort file", "less than 2.15 GB",
            "target.options.format=onnx",
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / FILE)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(folder / storage.GRAPH), options, providers=["CPUExecutionProvider"],
        # It would store the codes of a tied embedding a second time, reshaped for the other reader.
        disabled_optimizers=["ConstantFolding"],
    )  # fmt: skip
    for name in (storage.GRAPH, storage.DATA):
        (folder / name).unlink()
    (folder / FILE).write_bytes(ort_canonical.canonical((folder / FILE).read_bytes()))
    (folder / OPERATORS).write_text(operators(_graph(folder / FILE)), encoding="utf-8")


def operators(graph: Any) -> str:
    """What `--include_ops_by_config` of ONNX Runtime's own build takes: domain;version;names."""
    found: dict[tuple[str, int], set[str]] = {}
    for node in _nodes(graph):
        domain = node.Domain().decode() or "ai.onnx"
        found.setdefault((domain, node.SinceVersion()), set()).add(node.OpType().decode())
    return "".join(
        f"{domain};{since};{','.join(sorted(names))}\n"
        for (domain, since), names in sorted(found.items())
    )


def read(file: Path) -> onnx.GraphProto:
    """The nodes with their numbers, and the tensors, as an ONNX graph has them."""
    try:
        stored = _graph(file)
        tensors = (stored.Initializers(index) for index in range(stored.InitializersLength()))
        return onnx.GraphProto(
            name="ort", node=map(_node, _nodes(stored)), initializer=map(_tensor, tensors)
        )
    except (struct.error, AttributeError, UnicodeDecodeError) as error:
        raise BadInputError(str(file), f"a broken flatbuffer: {error}", "an .ort file") from error


def _node(found: Any) -> onnx.NodeProto:
    return onnx.NodeProto(
        op_type=found.OpType().decode(), domain=found.Domain().decode(),
        input=[found.Inputs(index).decode() for index in range(found.InputsLength())],
        output=[found.Outputs(index).decode() for index in range(found.OutputsLength())],
        attribute=[_attribute(found.Attributes(at)) for at in range(found.AttributesLength())],
    )  # fmt: skip


def _tensor(found: Any) -> onnx.TensorProto:
    raw = found.RawDataAsNumpy()  # 0 where there is none
    return onnx.TensorProto(
        name=found.Name().decode(), data_type=found.DataType(),
        dims=[found.Dims(index) for index in range(found.DimsLength())],
        raw_data=b"" if isinstance(raw, int) else raw.tobytes(),
    )  # fmt: skip


def _attribute(found: Any) -> onnx.AttributeProto:
    """Name, whole number and float; other kinds keep their name and type alone."""
    kind = found.Type()
    attribute = onnx.AttributeProto(name=found.Name().decode(), type=kind)
    if kind == onnx.AttributeProto.INT:
        attribute.i = found.I()
    elif kind == onnx.AttributeProto.FLOAT:
        attribute.f = found.F()
    return attribute


def _nodes(graph: Any) -> Iterator[Any]:
    """The graph's nodes and those of the graphs inside them."""
    for index in range(graph.NodesLength()):
        node = graph.Nodes(index)
        yield node
        for at in range(node.AttributesLength()):
            attribute = node.Attributes(at)
            if attribute.Type() == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.G())


def _graph(file: Path) -> Any:
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
        InferenceSession,
    )

    data = bytearray(file.read_bytes())
    if not InferenceSession.InferenceSessionBufferHasIdentifier(data, 0):
        raise BadInputError(str(file), f"{bytes(data[4:8])!r}", "the mark of an .ort file")
    return InferenceSession.GetRootAsInferenceSession(data, 0).Model().Graph()
