"""Codes to the unsigned bytes of MatMulNBits and back, a piece that fits the cache at a time."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgecompile.numerics.schemes import Int8

PIECE = 1 << 18  # codes


def pack(codes: Int8, bits: int) -> NDArray[np.uint8]:
    """Codes [rows, columns] + 2^(bits-1), at 4 bits two a byte, the even column in the low nibble.

    Columns are even at 4 bits.
    """
    rows, columns = codes.shape
    packed = np.empty((rows, columns * bits // 8), np.uint8)
    for part in pieces(rows, columns):
        values = np.ascontiguousarray(codes[part]).view(np.uint8)
        if bits == 8:
            np.bitwise_xor(values, 128, out=packed[part])
            continue
        pairs = values.view("<u2") & np.uint16(0x0F0F)
        pairs ^= np.uint16(0x0808)  # a nibble of two's complement + 8
        pairs |= pairs >> np.uint16(4)
        packed[part] = pairs  # the low byte
    return packed


def unpack(packed: NDArray[np.uint8], bits: int) -> Int8:
    """Inverse of `pack`: int8 [rows, columns] from bytes [rows, columns * bits / 8]."""
    rows, columns = packed.shape[0], packed.shape[1] * 8 // bits
    codes = np.empty((rows, columns), np.int8)
    for part in pieces(rows, columns):
        if bits == 8:
            np.bitwise_xor(packed[part], 128, out=codes[part].view(np.uint8))
            continue
        pairs = packed[part].astype("<u2")
        pairs |= pairs << np.uint16(4)
        pairs &= np.uint16(0x0F0F)
        np.subtract(pairs.view(np.int8), np.int8(8), out=codes[part])
    return codes


def pieces(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows, PIECE elements or one row each."""
    step = max(1, PIECE // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))
