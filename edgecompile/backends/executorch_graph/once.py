"""A lowered file whose data are there once: a tied head's are a table's and XNNPACK's."""
from __future__ import annotations

import hashlib
from pathlib import Path

from executorch.exir import schema

from edgecompile.backends.executorch_graph.pte import ALIGNMENT, with_header
from edgecompile.backends.executorch_graph.pte_read import PteReader

SMALLEST = 1024  # bytes


def store_once(file: Path) -> None:
    """Let XNNPACK's named data that equal a constant of the program's be that constant's bytes."""
    reader = PteReader(file)
    program, body = reader.program, bytearray()
    home = program.constant_segment.segment_index
    constants = {
        hashlib.sha256(reader.constant(one.data_buffer_idx, size).data).digest():
            program.constant_segment.offsets[one.data_buffer_idx]
        for one in reader.constants() if (size := reader.bytes_of(one)) >= SMALLEST
    }  # fmt: skip
    named, segments, shared = set(reader.named.values()), [], {}
    for index in range(len(program.segments)):
        data = reader.segment(index)
        digest = hashlib.sha256(data.data).digest()
        if index in named and digest in constants:
            shared[index] = constants[digest]
            segments.append(schema.DataSegment(0, data.nbytes))
            continue
        body += b"\0" * (-len(body) % ALIGNMENT)
        segments.append(schema.DataSegment(len(body), data.nbytes))
        body += data.tobytes()
    if not shared:
        return
    for index, offset in shared.items():
        segments[index].offset = segments[home].offset + offset
    program.segments = segments
    head = with_header(program, len(body))
    file.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + bytes(body))
