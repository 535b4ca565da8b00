"""A matrix as a small PNG: one pixel a cell, black with the cell's value as its opacity."""
from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

LARGEST = 4096  # cells in a row or column


def data_uri(cells: Sequence[Sequence[float]], top: float) -> str:
    """`data:image/png;base64,...` of cells in [0, top]; empty where they are no matrix.

    PNG (third edition) with color type 4, grayscale and alpha of 8 bits each. The page draws it on
    its own ground and inverts it in the dark.
    """
    widths = {len(row) for row in cells}
    if len(widths) != 1 or not 0 < max(widths) <= LARGEST or len(cells) > LARGEST:
        return ""
    lines = b"".join(
        b"\0" + b"".join(bytes((0, _opacity(cell, top))) for cell in row) for row in cells
    )
    head = struct.pack(">IIBBBBB", max(widths), len(cells), 8, 4, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")
    file = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)
    return "data:image/png;base64," + base64.b64encode(file).decode("ascii")


def _opacity(cell: object, top: float) -> int:
    if not isinstance(cell, int | float) or not cell > 0 or top <= 0:
        return 0
    return round(255 * min(cell / top, 1.0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
