"""Read a .pte file: the program, its segments, and XNNPACK's subgraphs in them."""
from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as xnnpack
from executorch.exir import schema
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from executorch.exir._serialize._program import _ExtendedHeader
from numpy.typing import NDArray

from edgecompile.backends.executorch_graph.method import BYTES
from edgecompile.backends.executorch_graph.scope import XNNPACK
from edgecompile.errors import BadInputError

Bytes = NDArray[np.uint8]
INFINITE = re.compile(r": *(-?)inf\b")
HEADER_AT = 8  # bytes of the file: after the flatbuffer's root offset and identifier


class PteReader:
    """A sealed file, mapped; what is asked for is read then."""

    def __init__(self, file: Path) -> None:
        self.where = str(file)
        self._data = np.memmap(file, np.uint8, "r")
        head = bytes(self._data[HEADER_AT : HEADER_AT + _ExtendedHeader.EXPECTED_LENGTH])
        whole = len(head) == _ExtendedHeader.EXPECTED_LENGTH
        self._header: Any = _ExtendedHeader.from_bytes(head) if whole else None
        if self._header is None or not self._header.is_valid():
            raise BadInputError(self.where, "no extended header", "a .pte file with segments")

    @property
    def base(self) -> int:
        """Where the segments begin."""
        base: int = self._header.segment_base_offset
        return base

    @cached_property
    def program(self) -> schema.Program:
        """The flatbuffer at the file's beginning."""
        return _flatbuffer_to_program(bytes(self._data[: self._header.program_size]))

    @cached_property
    def named(self) -> dict[str, int]:
        """Key -> segment of the data that delegates find by key."""
        return {one.key: one.segment_index for one in self.program.named_data or ()}

    def segment(self, index: int) -> Bytes:
        """The bytes of a segment."""
        place = self.program.segments[index]
        return self._slice(self.base + place.offset, place.size)

    def data(self, key: str) -> Bytes:
        """The named data of that key."""
        if key not in self.named:
            raise BadInputError(self.where, f"no named data {key!r}")
        return self.segment(self.named[key])

    def constant(self, buffer: int, size: int) -> Bytes:
        """`size` bytes of the program's own constant number `buffer`."""
        segment = self.program.constant_segment
        return self.segment(segment.segment_index)[segment.offsets[buffer] :][:size]

    def data_at(self, key: str) -> int:
        """Where the named data of that key begin in the file."""
        if key not in self.named:
            raise BadInputError(self.where, f"no named data {key!r}")
        return self.base + int(self.program.segments[self.named[key]].offset)

    def constant_at(self, buffer: int) -> int:
        """Where the program's own constant number `buffer` begins in the file."""
        place = self.program.constant_segment
        segment = self.program.segments[place.segment_index]
        return self.base + int(segment.offset) + int(place.offsets[buffer])

    def constants(self) -> Iterator[schema.Tensor]:
        """The program's own constant tensors, of all methods."""
        for plan in self.program.execution_plan:
            for value in plan.values:
                if isinstance(value.val, schema.Tensor) and value.val.data_buffer_idx:
                    yield value.val

    @staticmethod
    def bytes_of(tensor: schema.Tensor) -> int:
        """Bytes of a tensor's values."""
        size: int = math.prod(tensor.sizes) * BYTES.get(tensor.scalar_type, 4)
        return size

    @cached_property
    def subgraphs(self) -> list[dict[str, Any]]:
        """XNNPACK's subgraphs of all methods, in order, as schema.fbs names their fields."""
        return list(self._subgraphs())

    def payloads(self, delegate_id: str) -> Iterator[bytes]:
        """What each call of that delegate was compiled to, of all methods, in order."""
        for plan in self.program.execution_plan:
            for delegate in plan.delegates:
                if delegate.id == delegate_id:
                    yield bytes(self.payload(delegate))

    def _subgraphs(self) -> Iterator[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            for payload in self.payloads(XNNPACK.delegate):
                yield _subgraph(payload, Path(folder))

    def payload(self, delegate: schema.BackendDelegate) -> Bytes:
        """What one delegate call was compiled to."""
        place = delegate.processed
        if place.location == schema.DataLocation.INLINE:
            return np.frombuffer(self.program.backend_delegate_data[place.index].data, np.uint8)
        return self.segment(place.index)

    def _slice(self, start: int, size: int) -> Bytes:
        if start + size > len(self._data):
            found = f"{start + size} bytes wanted, {len(self._data)} there"
            raise BadInputError(self.where, found, "all of its segments")
        return np.asarray(self._data[start : start + size])


def _subgraph(blob: bytes, folder: Path) -> dict[str, Any]:
    header = xnnpack.XNNHeader.from_bytes(blob[: xnnpack.XNNHeader.EXPECTED_LENGTH])
    end = header.flatbuffer_offset + header.flatbuffer_size
    schema_file, binary = folder / "schema.fbs", folder / "graph.bin"
    schema_file.write_bytes(xnnpack._get_schema_bytes())
    binary.write_bytes(blob[header.flatbuffer_offset : end])
    _flatc_decompile(str(folder), str(schema_file), str(binary), ["--raw-binary"])
    text = INFINITE.sub(r": \1Infinity", (folder / "graph.json").read_text())  # JSON has none
    found: dict[str, Any] = json.loads(text)
    return found
