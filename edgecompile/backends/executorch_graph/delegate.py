"""XNNPACK's part of a program: a subgraph of its operators, serialized as its delegate reads it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
    serialize_xnnpack_binary,
)

from edgecompile.numerics.schemes import Scheme

NONE = 2**32 - 1  # XNN_INVALID_VALUE_ID
INPUT, OUTPUT = 1, 2  # XNN_VALUE_FLAG_EXTERNAL_*
TRANSPOSED = 1  # XNN_FLAG_TRANSPOSE_B
NAMED = 2**64 - 1  # the offset of a constant that has a key instead
FLOAT32 = schema.XNNDatatype.xnn_datatype_fp32
DYNAMIC_INT8 = schema.XNNDatatype.xnn_datatype_qdint8
CODES = {
    (4, True): schema.XNNDatatype.xnn_datatype_qbint4,
    (4, False): schema.XNNDatatype.xnn_datatype_qcint4,
    (8, False): schema.XNNDatatype.xnn_datatype_qcint8,
}


class Delegate:
    """One subgraph. Inputs are declared before outputs; a value is a number.

    Dimensions are upper bounds: at run time each follows from the inputs' true shapes.
    """

    def __init__(self) -> None:
        self._nodes: list[schema.XNode] = []
        self._values: list[schema.XValue] = []
        self._constants = [schema.ConstantDataOffset(0, 0)]
        self._dims: list[tuple[int, ...]] = []
        self._inputs: list[int] = []
        self.outputs: list[int] = []  # in order
        self._known: dict[str, int] = {}

    def input(self, *dims: int) -> int:
        """The next argument of the call, float32."""
        value = self._tensor(dims, external=len(self._inputs), flags=INPUT)
        self._inputs.append(value)
        return value

    def output(self, value: int) -> None:
        """Make a value the next argument after the inputs."""
        tensor = self._values[value].xvalue_union
        external = len(self._inputs) + len(self.outputs)
        self._values[value] = schema.XValue(replace(tensor, external_id=external, flags=OUTPUT))
        self.outputs.append(value)

    def shape(self, value: int) -> tuple[int, ...]:
        """Upper bounds of a value's dimensions."""
        return self._dims[value]

    def constant(self, key: str, dims: Sequence[int], size: int) -> int:
        """A float32 tensor of the file's named data; `size` in bytes. Twice the same is once."""
        if key not in self._known:
            self._known[key] = self._tensor(dims, constant=self._named(key, size))
        return self._known[key]

    def weight(
        self, codes: tuple[str, int], scales: tuple[str, int], dims: tuple[int, int], scheme: Scheme
    ) -> int:
        """Codes [out, in] with their scales, each a key and a size in bytes.

        4 bits: two a byte, low nibble even, code + 8; scales bfloat16 by group or float32 by row.
        """
        grouped = bool(scheme.group_size)
        tensor = self._bare(dims, CODES[scheme.bits, grouped], self._named(*codes))
        at, count = self._named(*scales), dims[0] * scheme.groups(dims[1])
        quant = (
            schema.PerChannelGroupQuant([], 0, scheme.group_size, None, at, count)
            if grouped else schema.PerChannelQuant([], 0, at, count)
        )  # fmt: skip
        return self._quantized(tensor, quant)

    def quantize(self, value: int) -> int:
        """Each row of float32 [..., row] as int8 codes with a scale and zero point of its own."""
        tensor = self._bare(self._dims[value], DYNAMIC_INT8, 0)
        made = self._quantized(tensor, schema.PerTokenDynamicQuant(1))
        return self._unary(schema.XNNConvert, value, made)

    def linear(self, value: int, weight: int, bias: int = NONE) -> int:
        """value [..., in] times weight [out, in] transposed, plus bias [out]."""
        made = self._tensor((*self._dims[value][:-1], self._dims[weight][0]))
        self._node(schema.XNNFullyConnected(value, weight, bias, made, 0))
        return made

    def add(self, one: int, other: int) -> int:
        """Sum, with broadcasting."""
        return self._binary(schema.XNNAdd, one, other)

    def multiply(self, one: int, other: int) -> int:
        """Product by element, with broadcasting."""
        return self._binary(schema.XNNMultiply, one, other)

    def inverse_root(self, value: int) -> int:
        """1 / sqrt."""
        return self._same(schema.XNNReciprocalSquareRoot, value)

    def sigmoid(self, value: int) -> int:
        """Logistic function."""
        return self._same(schema.XNNSigmoid, value)

    def gelu(self, value: int) -> int:
        """x times the normal distribution function of x (Hendrycks & Gimpel 2016)."""
        return self._same(schema.XNNGelu, value)

    def tanh(self, value: int) -> int:
        """Hyperbolic tangent."""
        return self._same(schema.XNNTanh, value)

    def absolute(self, value: int) -> int:
        """Without its sign."""
        return self._same(schema.XNNAbs, value)

    def largest(self, one: int, other: int) -> int:
        """The larger of two elements, with broadcasting."""
        return self._binary(schema.XNNMaximum, one, other)

    def softmax(self, value: int) -> int:
        """Over the last dimension."""
        return self._same(schema.XNNSoftmax, value)

    def subtract(self, one: int, other: int) -> int:
        """Difference, with broadcasting."""
        return self._binary(schema.XNNSubtract, one, other)

    def matmul(self, one: int, other: int, *, transposed: bool = False) -> int:
        """[.., m, k] times [.., k, n], or [.., n, k] where it is transposed, for each batch."""
        dims = self._dims[one], self._dims[other]
        made = self._tensor((*dims[0][:-1], dims[1][-2 if transposed else -1]))
        self._node(schema.XNNBatchMatrixMultiply(one, other, made, TRANSPOSED * transposed))
        return made

    def transpose(self, value: int, *axes: int) -> int:
        """Dimensions in another order."""
        made = self._tensor([self._dims[value][axis] for axis in axes])
        self._node(schema.XNNStaticTranspose(len(axes), list(axes), value, made, 0))
        return made

    def average(self, value: int) -> int:
        """[batch, length, 1, width] over length: [batch, 1, 1, width]."""
        batch, _, _, width = self._dims[value]
        return self._unary(schema.XNNGlobalAvgPooling2d, value, self._tensor((batch, 1, 1, width)))

    def join(self, one: int, other: int, axis: int = -1) -> int:
        """Concatenated along a dimension, the last if none is named."""
        dims = list(self._dims[one])
        axis %= len(dims)
        dims[axis] += self._dims[other][axis]
        made = self._tensor(dims)
        self._node(schema.XNNConcatenate2(axis, one, other, NONE, NONE, made, 0, NONE))
        return made

    def cut(self, value: int, axis: int, start: int, size: int) -> int:
        """`size` elements from `start` on along an axis; the other axes are whole."""
        dims = list(self._dims[value])
        dims[axis] = size
        offsets, sizes = [0] * len(dims), [0] * len(dims)  # a size of 0: to the end
        offsets[axis], sizes[axis] = start, size
        made = self._tensor(dims)
        self._node(schema.XNNStaticSlice(len(dims), offsets, sizes, value, made, 0))
        return made

    def reshape(self, value: int, *dims: int) -> int:
        """`dims` with a 0 for the one that follows from the rest."""
        count, rest = 1, 1
        for size in self._dims[value]:
            count *= size
        for size in dims:
            rest *= size or 1
        made = self._tensor([size or count // rest for size in dims])
        self._node(schema.XNNStaticReshape(len(dims), list(dims), value, made, 0))
        return made

    def serialize(self) -> bytes:
        """The bytes that the program's delegate refers to."""
        graph = schema.XNNGraph(
            "0", self._nodes, self._values, len(self._inputs) + len(self.outputs),
            self._inputs, self.outputs, self._constants,
        )  # fmt: skip
        return bytes(serialize_xnnpack_binary(graph, bytearray()))

    def _bare(
        self, dims: Sequence[int], dtype: schema.XNNDatatype, constant: int,
        external: int = NONE, flags: int = 0,
    ) -> schema.XNNTensorValue:  # fmt: skip
        self._dims.append(tuple(dims))
        return schema.XNNTensorValue(
            dtype, len(dims), list(dims), constant, external, flags, len(self._values)
        )

    def _tensor(
        self, dims: Sequence[int], constant: int = 0, external: int = NONE, flags: int = 0
    ) -> int:
        tensor = self._bare(dims, FLOAT32, constant, external, flags)
        self._values.append(schema.XValue(tensor))
        return len(self._values) - 1

    def _quantized(self, tensor: schema.XNNTensorValue, quant: schema.XNNQuantParams) -> int:
        self._values.append(schema.XValue(schema.XNNQuantizedTensorValue(tensor, quant)))
        return len(self._values) - 1

    def _named(self, key: str, size: int) -> int:
        self._constants.append(schema.ConstantDataOffset(NAMED, size, key))
        return len(self._constants) - 1

    def _unary(self, kind: type[schema.XNNNode1x1], value: int, made: int) -> int:
        self._node(kind(value, made, 0))
        return made

    def _same(self, kind: type[schema.XNNNode1x1], value: int) -> int:
        return self._unary(kind, value, self._tensor(self._dims[value]))

    def _binary(self, kind: type[schema.XNNNode2x1], one: int, other: int) -> int:
        pairs = zip(self._dims[one], self._dims[other], strict=True)
        made = self._tensor([max(pair) for pair in pairs])
        self._node(kind(one, other, made, 0))
        return made

    def _node(self, made: schema.XNodeUnion) -> None:
        self._nodes.append(schema.XNode(made, len(self._nodes)))
