"""GGUF's block formats: codes and scales to bytes and back, without rounding anything."""
from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme

BLOCK = 32  # columns a scale: ggml-common.h, QK4_0 and QK8_0
Q4_0, Q8_0 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0
BITS = {Q4_0: 4, Q8_0: 8}
TYPES = {Scheme(4, BLOCK): Q4_0, Scheme(8, BLOCK): Q8_0, Scheme(8, 0): Q8_0}


def block_type(name: str, tensor: QuantizedTensor) -> gguf.GGMLQuantizationType:
    """The format that holds these codes exactly; refuses other schemes, shapes and scales."""
    columns = tensor.codes.shape[1]
    if tensor.scheme not in TYPES:
        known = ", ".join(scheme.name for scheme in TYPES)
        raise UnsupportedError(name, f"scheme {tensor.scheme.name}", known, "choose one of these")
    if columns % BLOCK:
        found = f"rows of {columns} columns"
        way_out = f"add {name!r} to the quantize pass's skip list"
        raise UnsupportedError(name, found, f"a multiple of {BLOCK}, GGUF's block", way_out)
    halves = tensor.scales.astype(np.float16).astype(np.float32)
    if not np.array_equal(halves, tensor.scales):
        wrong = float(tensor.scales[halves != tensor.scales][0])
        raise UnsupportedError(name, f"scale {wrong!r}", "scales that are exact in float16")
    return TYPES[tensor.scheme]


def encode(tensor: QuantizedTensor) -> NDArray[np.uint8]:
    """Blocks uint8 [out, in/32 * 18 or 34]: a float16 scale, then 16 nibble pairs or 32 int8.

    Q4_0's byte j is (q[j] + 8) | (q[j + 16] + 8) << 4; a scale of a whole row is repeated.
    """
    out, columns = tensor.codes.shape
    blocks = columns // BLOCK
    scales = np.broadcast_to(tensor.scales, (out, blocks)).astype("<f2")
    codes = np.ascontiguousarray(tensor.codes).reshape(out, blocks, BLOCK)
    if tensor.scheme.bits == 4:
        nibbles = (codes + np.int8(8)).view(np.uint8)
        data = nibbles[..., :16] | nibbles[..., 16:] << 4
    else:
        data = codes.view(np.uint8)
    head = scales[..., None].view(np.uint8)  # [out, blocks, 2]
    return np.concatenate([head, data], axis=2).reshape(out, -1)


def decode(raw: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> tuple[Int8, Float32]:
    """Codes int8 [out, in] and scales float32 [out, in/32] from Q4_0 or Q8_0 blocks."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = np.ascontiguousarray(raw).reshape(len(raw), -1, size)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    data = blocks[..., 2:]
    if kind is Q4_0:
        nibbles = np.concatenate([data & 15, data >> 4], axis=2)
        codes = nibbles.view(np.int8) - np.int8(8)
    else:
        codes = np.ascontiguousarray(data).view(np.int8)
    return codes.reshape(len(raw), -1), scales


def as_scheme(codes: Int8, scales: Float32, bits: int, per_row: bool) -> QuantizedTensor:
    """The tensor on its scheme: one scale a row where the blocks of every row agree, else g32."""
    if per_row and (scales == scales[:, :1]).all():
        return QuantizedTensor(Scheme(bits, 0), codes, np.ascontiguousarray(scales[:, :1]))
    return QuantizedTensor(Scheme(bits, BLOCK), codes, scales)
