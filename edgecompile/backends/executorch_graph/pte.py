"""A .pte file: the program's flatbuffer with a header in it, then segments of data."""
from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from executorch.exir import schema
from executorch.exir._serialize._flatbuffer_program import _program_to_flatbuffer
from executorch.exir._serialize._program import _ExtendedHeader, _insert_flatbuffer_header
from numpy.typing import NDArray

from edgecompile.backends.executorch_graph.scope import FILE

ALIGNMENT = 128  # bytes: of segments, as ExecuTorch's own serializer has it
DATA = "data.unfinished"
KEY_DIGITS = 16


@dataclass(frozen=True)
class Stored:
    """Where data are: the key of the named data, their segment, offset and size in bytes."""

    key: str
    offset: int
    size: int


class PteFile:
    """Data go to the file when they are added; the program is put before them at the end.

    Equal data are written once, and have a key for each name.
    XNNPACK's weight cache knows packed weights by their key alone, in the whole process: so keys
    end with a digest of the data, and two bundles with layers of one name never meet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stream = (folder / DATA).open("wb")
        self._named: dict[str, Stored] = {}
        self._constants: list[int] = [0]  # offsets in the constant segment; 0 stands for none
        self._constants_end = 0
        self._delegates: list[schema.DataSegment] = []
        self._there: dict[bytes, int] = {}  # SHA-256 of data -> their offset

    def constant(self, name: str, *parts: NDArray[Any]) -> tuple[int, Stored]:
        """Data of the program's own tensors, all before the first named data."""
        stored = self._write(name, parts)
        self._constants.append(stored.offset)
        self._constants_end = max(self._constants_end, stored.offset + stored.size)
        return len(self._constants) - 1, stored

    def named(self, name: str, *parts: NDArray[Any]) -> Stored:
        """Data that delegates find by key."""
        return self.name(self._write(name, parts))

    def name(self, stored: Stored) -> Stored:
        """Let delegates find data that are in the file already."""
        self._named[stored.key] = stored
        return stored

    def delegate(self, data: bytes) -> int:
        """A delegate's subgraph; the number that `Method.delegate` takes."""
        stored = self._write("", [np.frombuffer(data, np.uint8)])
        self._delegates.append(schema.DataSegment(stored.offset, stored.size))
        return len(self._delegates)

    def finish(self, methods: Sequence[schema.ExecutionPlan]) -> None:
        """Write the program and its data as one file."""
        self._stream.close()
        segments = [schema.DataSegment(0, self._constants_end), *self._delegates]
        named = []
        for stored in self._named.values():
            named.append(schema.NamedData(stored.key, len(segments)))
            segments.append(schema.DataSegment(stored.offset, stored.size))
        program = schema.Program(
            version=0, execution_plan=list(methods), constant_buffer=[], backend_delegate_data=[],
            segments=segments, constant_segment=schema.SubsegmentOffsets(0, self._constants),
            mutable_data_segments=None, named_data=named,
        )  # fmt: skip
        data = self._folder / DATA
        head = with_header(program, data.stat().st_size)
        with (self._folder / FILE).open("wb") as file, data.open("rb") as body:
            file.write(head)
            file.write(b"\0" * (-len(head) % ALIGNMENT))
            shutil.copyfileobj(body, file, 1 << 22)
        data.unlink()

    def _write(self, name: str, parts: Sequence[NDArray[Any]]) -> Stored:
        raw = [np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in parts]
        whole = hashlib.sha256()
        for part in raw:
            whole.update(part)
        if whole.digest() not in self._there:
            self._stream.write(b"\0" * (-self._stream.tell() % ALIGNMENT))
            self._there[whole.digest()] = self._stream.tell()
            self._stream.writelines(raw)
        key, size = f"{name}#{whole.hexdigest()[:KEY_DIGITS]}", sum(part.nbytes for part in raw)
        return Stored(key, self._there[whole.digest()], size)


def with_header(program: schema.Program, data_bytes: int) -> bytes:
    """The flatbuffer with ExecuTorch's extended header: where it ends and the segments begin."""
    made = _program_to_flatbuffer(program, constant_tensor_alignment=16)
    room = -(-_ExtendedHeader.EXPECTED_LENGTH // made.max_alignment) * made.max_alignment
    size = len(made.data) + room
    base = -(-size // ALIGNMENT) * ALIGNMENT
    header = _ExtendedHeader(size, base, data_bytes).to_bytes().ljust(room, b"\0")
    return bytes(_insert_flatbuffer_header(made.data, r"ET[0-9a-zA-Z][0-9a-zA-Z]", header))
