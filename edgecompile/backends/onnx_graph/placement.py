"""Which nodes must not be left to the CPU: those that read floats, told from the graph's types."""
from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from edgecompile.runtime.providers import HOST_OPERATORS

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
INTEGERS_OUT = frozenset((
    "Shape", "Size", "NonZero", "ArgMax", "ArgMin", "Equal", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "And", "Or", "Not", "IsNaN", "IsInf",
))  # fmt: skip
TYPED_BY = {"Where": 1, "GatherBlockQuantized": 2, "OneHot": 2}  # the input that gives the type


def device_nodes(graph: onnx.GraphProto) -> list[str]:
    """Names of nodes that read floats with an operator that integers may run on the CPU with."""
    return sorted(node.name for node in _reading_floats(graph) if node.op_type in HOST_OPERATORS)


def _reading_floats(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    floats = {t.name for t in graph.initializer if t.data_type in FLOATS}
    floats |= {v.name for v in graph.input if v.type.tensor_type.elem_type in FLOATS}
    for node in graph.node:
        if floats.intersection(node.input):
            yield node
        if _gives_floats(node, floats):
            floats.update(node.output)


def _gives_floats(node: onnx.NodeProto, floats: set[str]) -> bool:
    """The type of what a node puts out, by its operator: most keep that of their first input."""
    attributes = {a.name: a for a in node.attribute}
    if node.op_type in INTEGERS_OUT:
        return False
    if node.op_type == "Cast":
        return attributes["to"].i in FLOATS
    if node.op_type in ("Constant", "ConstantOfShape"):
        if "value" in attributes:
            return attributes["value"].t.data_type in FLOATS
        return node.op_type == "ConstantOfShape" or "value_float" in attributes
    place = TYPED_BY.get(node.op_type, 0)
    return place < len(node.input) and node.input[place] in floats

