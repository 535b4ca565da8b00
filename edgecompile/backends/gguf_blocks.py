"""GGUF's block formats: codes and scales to bytes and back, without rounding anything."""
from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from edgecompile.backends.packing import pieces
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme

BLOCK = 32  # columns a scale: ggml-common.h, QK4_0 and QK8_0
Q4_0, Q8_0 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0
NIBBLES, EIGHTS = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x8888888888888888)
BITS = {Q4_0: 4, Q8_0: 8}
TYPES = {Scheme(4, BLOCK): Q4_0, Scheme(8, BLOCK): Q8_0, Scheme(8, 0): Q8_0}


def block_type(name: str, scheme: Scheme, columns: int) -> gguf.GGMLQuantizationType:
    """The format that holds codes of that scheme exactly; refuses other schemes and widths."""
    if scheme not in TYPES:
        known = ", ".join(known.name for known in TYPES)
        raise UnsupportedError(name, f"scheme {scheme.name}", known, "choose one of these")
    if columns % BLOCK:
        found = f"rows of {columns} columns"
        way_out = f"add {name!r} to the quantize pass's skip list"
        raise UnsupportedError(name, found, f"a multiple of {BLOCK}, GGUF's block", way_out)
    return TYPES[scheme]


def encode(name: str, tensor: QuantizedTensor) -> NDArray[np.uint8]:
    """Blocks uint8 [out, in/32 * 18 or 34]: a float16 scale, then 16 nibble pairs or 32 int8.

    Q4_0's byte j is (q[j] + 8) | (q[j + 16] + 8) << 4; a scale of a whole row is repeated.
    """
    out, columns = tensor.codes.shape
    size = gguf.GGML_QUANT_SIZES[block_type(name, tensor.scheme, columns)][1]
    if tensor.inputs is not None:
        raise UnsupportedError(name, "factors of its inputs", "codes of the weight alone")
    halves = _halves(name, tensor.scales)
    blocks = np.empty((out, columns // BLOCK, size), np.uint8)
    for part in pieces(out, columns):
        blocks[part, :, :2] = halves[part, :, None].view(np.uint8)
        codes = np.ascontiguousarray(tensor.codes[part]).view(np.uint8)
        codes = codes.reshape(-1, columns // BLOCK, BLOCK)
        if tensor.scheme.bits == 8:
            blocks[part, :, 2:] = codes
            continue
        words = codes.view("<u8") & NIBBLES  # 4 of a block: codes 0-7, 8-15, 16-23, 24-31
        pairs = words[..., :2] | words[..., 2:] << np.uint64(4)
        blocks[part, :, 2:] = (pairs ^ EIGHTS).view(np.uint8)
    return blocks.reshape(out, -1)


def _halves(name: str, scales: Float32) -> NDArray[np.float16]:
    """The scales as little-endian float16; refuses those that it cannot hold."""
    halves = scales.astype("<f2")
    if not np.array_equal(halves.astype(np.float32), scales):
        wrong = float(scales[halves.astype(np.float32) != scales][0])
        raise UnsupportedError(name, f"scale {wrong!r}", "scales that are exact in float16")
    return halves


def decode(raw: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> tuple[Int8, Float32]:
    """Codes int8 [out, in] and scales float32 [out, in/32] from Q4_0 or Q8_0 blocks."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = raw.reshape(len(raw), -1, size)
    count = blocks.shape[1]
    codes = np.empty((len(raw), count, BLOCK), np.int8)
    scales = np.empty((len(raw), count), np.float32)
    for part in pieces(len(raw), count * BLOCK):
        scales[part] = np.ascontiguousarray(blocks[part, :, :2]).view("<f2")[..., 0]
        data = np.ascontiguousarray(blocks[part, :, 2:])
        if kind is Q8_0:
            codes[part] = data.view(np.int8)
            continue
        pairs = data.view("<u8")
        words = np.concatenate([pairs & NIBBLES, pairs >> np.uint64(4) & NIBBLES], axis=2)
        np.subtract(words.view(np.int8), np.int8(8), out=codes[part])
    return codes.reshape(len(raw), -1), scales


def as_scheme(codes: Int8, scales: Float32, bits: int, per_row: bool) -> QuantizedTensor:
    """The tensor on its scheme: one scale a row where the blocks of every row agree, else g32."""
    if per_row and (scales == scales[:, :1]).all():
        return QuantizedTensor(Scheme(bits, 0), codes, np.ascontiguousarray(scales[:, :1]))
    return QuantizedTensor(Scheme(bits, BLOCK), codes, scales)
