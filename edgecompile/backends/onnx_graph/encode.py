"""Replace float matrices by codes: MatMul -> MatMulNBits, Gather -> GatherBlockQuantized.

Operators: onnxruntime's ContribOperators.md. Both read codes + 2^(bits-1) as unsigned integers
[out, blocks, block * bits / 8], at 4 bits the even element in the low nibble, and scales
[out, blocks]; the zero point is 2^(bits-1) when it is left out. Tied tensors are stored once.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgecompile.backends import packing
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme

DOMAIN = "com.microsoft"
LARGEST_BLOCK = 128  # columns a scale of the file covers when a whole row shares one scale


@dataclass(frozen=True)
class Site:
    """A node that multiplies with, or looks up rows of, a source tensor."""

    node: onnx.NodeProto
    source: str
    kind: str  # matmul, gather, convolution
    bias: str = ""  # initializer added by a Gemm


def block_size(scheme: Scheme, columns: int, name: str) -> int:
    """Columns that share one stored scale: the group, or the largest power of two in a row."""
    group = scheme.group_size
    if scheme.bits not in (4, 8):
        raise UnsupportedError(name, f"{scheme.bits} bits", "4 or 8", "choose bits = 4 or 8")
    if group and (group < 16 or group & (group - 1)):
        raise UnsupportedError(
            name, f"group size {group}", "a power of two from 16 on", "choose group_size=32"
        )
    return group or row_block(columns)


def row_block(columns: int) -> int:
    """The largest power of two from 16 to LARGEST_BLOCK that divides a row, else 16."""
    size = LARGEST_BLOCK
    while size > 16 and columns % size:
        size //= 2
    return size


def packed_codes(tensor: QuantizedTensor, block: int) -> NDArray[np.uint8]:
    """uint8 [out, blocks, block * bits / 8]; a last block that is not full is padded with zeros."""
    out, columns = tensor.codes.shape
    blocks, codes = -(-columns // block), tensor.codes
    if columns < blocks * block:
        codes = np.zeros((out, blocks * block), np.int8)
        codes[:, :columns] = tensor.codes
    return packing.pack(codes, tensor.scheme.bits).reshape(out, blocks, -1)


def stored_scales(tensor: QuantizedTensor, block: int) -> Float32:
    """float32 [out, blocks]: a whole row's scale is repeated for each of its blocks."""
    if tensor.scheme.group_size:
        return tensor.scales
    blocks = -(-tensor.codes.shape[1] // block)
    return np.repeat(tensor.scales, blocks, axis=1)


def stored(tensor: QuantizedTensor, name: str) -> tuple[NDArray[np.uint8], Float32]:
    """Codes [out, blocks, bytes] and scales [out, blocks] as the operators read them."""
    if tensor.inputs is not None:
        raise UnsupportedError(
            name, "its inputs take factors before the product", "none for MatMulNBits",
            "choose activations = dynamic or static, or another quantize.method",
        )  # fmt: skip
    block = block_size(tensor.scheme, tensor.codes.shape[1], name)
    return packed_codes(tensor, block), stored_scales(tensor, block)


def initializers(name: str, tensor: QuantizedTensor) -> list[onnx.TensorProto]:
    """`<name>.codes` and `<name>.scales`."""
    codes, scales = stored(tensor, name)
    return [
        numpy_helper.from_array(codes, f"{name}.codes"),
        numpy_helper.from_array(scales, f"{name}.scales"),
    ]


def matmul_node(
    site: Site, tensor: QuantizedTensor, accuracy_level: int
) -> list[onnx.NodeProto]:
    """MatMulNBits in place of a MatMul or Gemm; `accuracy_level` 4: int8 activations."""
    out, columns = tensor.codes.shape
    name = site.source
    inputs = [site.node.input[0], f"{name}.codes", f"{name}.scales"]
    if site.bias:
        inputs += ["", "", site.bias]
    node = helper.make_node(
        "MatMulNBits", inputs, list(site.node.output), name=site.node.name or name, domain=DOMAIN,
        K=columns, N=out, bits=tensor.scheme.bits, accuracy_level=accuracy_level,
        block_size=block_size(tensor.scheme, columns, name),
    )  # fmt: skip
    return [node]


def gather_nodes(site: Site, tensor: QuantizedTensor) -> list[onnx.NodeProto]:
    """GatherBlockQuantized in place of a Gather of rows; codes are seen as [rows, bytes]."""
    name = site.source
    table = helper.make_node(
        "Reshape", [f"{name}.codes", f"{name}.table_shape"], [f"{name}.table"], name=f"{name}.table"
    )
    gather = helper.make_node(
        "GatherBlockQuantized", [f"{name}.table", site.node.input[1], f"{name}.scales"],
        list(site.node.output), name=site.node.name or f"{name}.gather", domain=DOMAIN,
        bits=tensor.scheme.bits,
        block_size=block_size(tensor.scheme, tensor.codes.shape[1], name),
        gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    return [table, gather]


def table_shape(name: str, tensor: QuantizedTensor) -> onnx.TensorProto:
    """The Reshape's constant: [rows, bytes a row]."""
    shape = [-1, row_bytes(tensor.scheme, tensor.codes.shape[1], name)]
    return numpy_helper.from_array(np.array(shape, np.int64), f"{name}.table_shape")


def row_bytes(scheme: Scheme, columns: int, name: str) -> int:
    """Bytes that a row of codes takes, its padding included."""
    block = block_size(scheme, columns, name)
    return -(-columns // block) * block * scheme.bits // 8
