"""Tensors in a safetensors file, mapped: nothing is read before it is used."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError

DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
LENGTH, LARGEST_HEADER = 8, 100_000_000  # bytes; the format's own limit


def read(file: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name, changes stay in memory; BadInputError where header and file do not agree."""
    try:
        entries, start = _header(file)
        whole = np.memmap(file, np.uint8, "c")  # private: torch wants to be able to write
        return {name: _array(name, entry, whole[start:]) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(str(file), str(error) or repr(error), "a safetensors file") from error


def _header(file: Path) -> tuple[dict[str, Any], int]:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(LENGTH), "little")
        if not 2 <= size <= min(LARGEST_HEADER, file.stat().st_size - LENGTH):
            raise ValueError(f"a header of {size} bytes in {file.stat().st_size}")
        entries = json.loads(stream.read(size))
    if not isinstance(entries, dict):
        raise ValueError(f"a header that is {type(entries).__name__}")
    entries.pop("__metadata__", None)
    return entries, LENGTH + size


def _array(name: str, entry: dict[str, Any], data: NDArray[np.uint8]) -> NDArray[Any]:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(int(size) for size in entry["shape"])
    start, end = (int(at) for at in entry["data_offsets"])
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= start <= end <= len(data) or end - start != size:
        raise ValueError(f"{name}: bytes {start} to {end} of {len(data)} for {size}")
    return data[start:end].view(dtype).reshape(shape)
