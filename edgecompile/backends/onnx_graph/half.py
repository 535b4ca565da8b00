"""An exported graph in float16: what goes in and comes out stays float32."""
from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LARGEST = float(np.finfo(np.float16).max)
END = ".half"  # of a graph input's or output's name, for its float16 twin
KEPT = {"Resize": (1, 2)}  # inputs that are float32 by the operator's definition


def convert(model: onnx.ModelProto) -> None:
    """Every float tensor inside becomes float16, in place; masks of -3.4e38 become -65504."""
    graph = model.graph
    kept = {
        node.input[i] for node in graph.node for i in KEPT.get(node.op_type, ())
        if i < len(node.input)
    }  # fmt: skip
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _halve(tensor)
    for node in graph.node:
        _halve_attributes(node)
    del graph.value_info[:]
    _cast_ends(graph)


def _halve(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != FLOAT:
        return
    values = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = HALF
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _halve(attribute.t)
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            made = numpy_helper.from_array(np.array(values, np.float16))
            attribute.CopyFrom(helper.make_attribute("value", made))


def _cast_ends(graph: onnx.GraphProto) -> None:
    """A Cast after each float input and before each float output."""
    first, last, renamed = [], [], {}
    for port in graph.input:
        if port.type.tensor_type.elem_type == FLOAT:
            renamed[port.name] = port.name + END
            first.append(_cast(port.name, port.name + END, HALF))
    for port in graph.output:
        if port.type.tensor_type.elem_type == FLOAT:
            renamed[port.name] = port.name + END
            last.append(_cast(port.name + END, port.name, FLOAT))
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast(source: str, result: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], f"{result}.cast", to=kind)
