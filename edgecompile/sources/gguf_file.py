"""The GGUF container: header, metadata and tensor table, read without trusting one number in it.

A model may be in several files (llama.cpp's gguf-split): the first has the metadata.
"""
from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources import gguf_split

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
AGAIN = "download or convert the file again"
FROM_FOLDER = "build from the Hugging Face folder that the file was made of"

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}


@dataclass(frozen=True)
class GgufTensor:
    """One row of a tensor table; `shape` has rows first, `offset` counts from its file's start."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    file: Path

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which is the last axis."""
        block, size = GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // block * size

    @property
    def rows(self) -> int:
        """Number of rows: the product of all axes but the last."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class GgufFile:
    """A GGUF model whose headers were checked; weights stay on disk until `raw` asks for them.

    `path` is its first file, `others` those after it.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    others: tuple[Path, ...] = ()

    def raw(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The tensor's bytes as a memory map, uint8 [rows, row_bytes]."""
        shape = (tensor.rows, tensor.row_bytes)
        return np.memmap(tensor.file, np.uint8, "r", offset=tensor.offset, shape=shape)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """Metadata `key` if it is of that type, `default` if absent; a wrong type is an error."""
        value = self.metadata.get(key, default)
        if value is default:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            names = [k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,))]
            found = f"{key} is {_shown(value)}"
            raise BadInputError(str(self.path), found, f"a {' or '.join(names)}", AGAIN)
        return value

    def need(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """Metadata `key`; absent or of another type is a BadInputError."""
        if key not in self.metadata:
            found = f"metadata has no {key!r}"
            raise BadInputError(str(self.path), found, "a GGUF of a whole model", AGAIN)
        return self.get(key, kind)


def read_gguf(path: Path) -> GgufFile:
    """Parse and check the headers of a GGUF v2 or v3 model; no weight is read.

    `path` is its one file, or the first of several, which lie beside it.
    """
    first = _read_one(path)
    count = first.get(gguf_split.COUNT, int, 1)
    if count <= 1:
        return first
    _check_part(first, 0, count)
    tensors = dict(first.tensors)
    others = []
    for number in range(1, count):
        others.append(_part(path, number, count))
        part = _read_one(others[-1])
        _check_part(part, number, count)
        if twice := sorted(tensors.keys() & part.tensors.keys()):
            found = f"tensor {twice[0]!r} is in an earlier file too"
            raise BadInputError(str(others[-1]), found, "once", AGAIN)
        tensors |= part.tensors
    stated = first.get(gguf_split.TENSORS, int, len(tensors))
    if stated != len(tensors):
        found = f"{len(tensors)} tensors in {count} files"
        raise BadInputError(str(path), found, f"{stated}, as {gguf_split.TENSORS} says", AGAIN)
    return GgufFile(path, first.metadata, tensors, tuple(others))


def _part(path: Path, number: int, count: int) -> Path:
    file = gguf_split.part(path, number, count)
    if file is None:
        expected = f"NAME-00001-of-{count:05d}.gguf"
        raise BadInputError(str(path), f"the first of {count} files", expected, "its first name")
    if not file.is_file():
        raise BadInputError(str(file), "not there", f"{count} files beside each other", AGAIN)
    return file


def _check_part(file: GgufFile, number: int, count: int) -> None:
    found = tuple(file.get(key, int) for key in (gguf_split.NUMBER, gguf_split.COUNT))
    if found == (number, count):
        return
    first = gguf_split.part(file.path, 0, count)
    way_out = f"name the first file: {first.name}" if first and not number else AGAIN
    shown = f"{gguf_split.NUMBER} = {found[0]}, {gguf_split.COUNT} = {found[1]}"
    raise BadInputError(str(file.path), shown, f"{number} and {count}", way_out)


def _read_one(path: Path) -> GgufFile:
    size = path.stat().st_size
    if size < 24:
        raise BadInputError(str(path), f"{size} bytes", "a GGUF file (24 bytes or more)", AGAIN)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(path, data)
        tensor_count, value_count = _counts(cursor)
        metadata = _metadata(cursor, value_count)
        alignment = _alignment(path, metadata)
        table = [_table_row(cursor) for _ in range(tensor_count)]
        start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for row in table:
        tensor = GgufTensor(row.name, row.type, row.shape, start + row.offset, path)
        _check_placed(path, tensor, size, tensors)
        tensors[row.name] = tensor
    return GgufFile(path, metadata, tensors)


@dataclass
class _Cursor:
    path: Path
    data: mmap.mmap
    at: int = 0

    def take(self, size: int, what: str) -> bytes:
        if size > len(self.data) - self.at:
            left = len(self.data) - self.at
            found = f"{what} at byte {self.at} needs {size} bytes, but {left} are left"
            raise BadInputError(str(self.path), found, "a complete file", AGAIN)
        self.at += size
        return self.data[self.at - size : self.at]

    def scalar(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def text(self, what: str) -> str:
        raw = self.take(self.scalar("Q", f"length of {what}"), what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            found = f"{what} is not UTF-8: {raw[:40]!r}"
            raise BadInputError(str(self.path), found, "UTF-8 text", AGAIN) from error


def _counts(cursor: _Cursor) -> tuple[int, int]:
    magic = cursor.take(4, "magic number")
    if magic != MAGIC:
        found = f"starts with {magic!r}"
        raise BadInputError(str(cursor.path), found, f"{MAGIC!r}", "name a GGUF file")
    version = cursor.scalar("I", "version")
    if version not in VERSIONS:
        found = f"GGUF version {version}"
        expected = "version 2 or 3, little-endian"
        raise UnsupportedError(str(cursor.path), found, expected, "convert the model again")
    return cursor.scalar("Q", "number of tensors"), cursor.scalar("Q", "number of metadata values")


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text("metadata key")
        if key in metadata:
            raise BadInputError(str(cursor.path), f"metadata has {key!r} twice", "once", AGAIN)
        metadata[key] = _value(cursor, _value_type(cursor, key), key)
    return metadata


def _value_type(cursor: _Cursor, key: str) -> GGUFValueType:
    number = cursor.scalar("I", f"type of {key}")
    try:
        return GGUFValueType(number)
    except ValueError as error:
        found = f"{key} has value type {number}"
        raise BadInputError(str(cursor.path), found, "0 to 12", AGAIN) from error


def _value(cursor: _Cursor, kind: GGUFValueType, key: str) -> Any:
    if kind is GGUFValueType.STRING:
        return cursor.text(key)
    if kind is not GGUFValueType.ARRAY:
        return cursor.scalar(_SCALARS[kind], key)
    item = _value_type(cursor, key)
    count = cursor.scalar("Q", f"length of {key}")
    if item is GGUFValueType.STRING:
        return [cursor.text(key) for _ in range(count)]
    if item is GGUFValueType.ARRAY:
        raise UnsupportedError(str(cursor.path), f"{key} is an array of arrays", "a flat array")
    code = _SCALARS[item]
    raw = cursor.take(count * struct.calcsize("<" + code), key)
    return list(struct.unpack(f"<{count}{code}", raw))


def _alignment(path: Path, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or value <= 0 or value & (value - 1) or value > 1 << 20:
        found = f"general.alignment is {_shown(value)}"
        raise BadInputError(str(path), found, "a power of two up to 1048576", AGAIN)
    return value


def _table_row(cursor: _Cursor) -> GgufTensor:
    name = cursor.text("tensor name")
    dimensions = cursor.scalar("I", f"dimensions of {name}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        found = f"tensor {name!r} has {dimensions} dimensions"
        raise BadInputError(str(cursor.path), found, f"1 to {MAX_DIMENSIONS}", AGAIN)
    shape = tuple(cursor.scalar("Q", f"shape of {name}") for _ in range(dimensions))[::-1]
    number = cursor.scalar("I", f"type of {name}")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        found = f"tensor {name!r} has type number {number}, which the gguf package does not know"
        way_out = "pip install -U gguf, or convert the model to F16"
        raise UnsupportedError(str(cursor.path), found, "a known type", way_out) from error
    return GgufTensor(name, kind, shape, cursor.scalar("Q", f"offset of {name}"), cursor.path)


def _check_placed(
    path: Path, tensor: GgufTensor, size: int, before: Mapping[str, GgufTensor]
) -> None:
    if tensor.name in before:
        raise BadInputError(str(path), f"tensor {tensor.name!r} is there twice", "once", AGAIN)
    block = GGML_QUANT_SIZES[tensor.type][0]
    if min(tensor.shape) < 1 or tensor.shape[-1] % block:
        found = f"tensor {tensor.name!r} of type {tensor.type.name} has shape {tensor.shape}"
        raise BadInputError(str(path), found, f"rows that are multiples of {block}", AGAIN)
    elements = 1
    for extent in tensor.shape:
        elements *= extent
    end = tensor.offset + elements // block * GGML_QUANT_SIZES[tensor.type][1]
    if end > size:
        found = f"tensor {tensor.name!r} {tensor.shape} ends at byte {end}, the file at {size}"
        raise BadInputError(str(path), found, "a complete file", AGAIN)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
