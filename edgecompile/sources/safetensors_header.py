"""Headers of safetensors files, checked before a byte of weights is read.

Format: 8 bytes little-endian header length, JSON {name: {dtype, shape, data_offsets}}, data.
"""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgecompile.errors import BadInputError
from edgecompile.model import TensorInfo

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
MAX_HEADER = 100_000_000  # bytes; the reference implementation's own bound


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Tensors of one file; raises BadInputError for a truncated or inconsistent file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise _bad(file, f"a header of {length} bytes in a file of {size} bytes")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise _bad(file, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _bad(file, f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _bad(file, "the header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _info(file, name, entry, size - 8 - length) for name, entry in header.items()}


def _info(file: Path, name: str, entry: Any, data_bytes: int) -> TensorInfo:
    try:
        shape, dtype = tuple(int(size) for size in entry["shape"]), str(entry["dtype"])
        start, end = entry["data_offsets"]
        expected = math.prod(shape) * ITEM_BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(file, f"tensor {name!r} has the header entry {entry!r}") from error
    if not 0 <= start <= end <= data_bytes or min(shape, default=0) < 0:
        raise _bad(file, f"tensor {name!r} ends at byte {end} of {data_bytes} bytes of data")
    if end - start != expected:
        found = f"tensor {name!r} {dtype} {list(shape)} has {end - start} bytes"
        raise _bad(file, found, str(expected))
    return TensorInfo(file, shape, dtype)


def _bad(file: Path, found: str, expected: str = "a complete safetensors file") -> BadInputError:
    return BadInputError(str(file), found, expected, "copy or download the file again")
