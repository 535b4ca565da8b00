"""Where a .pte file keeps each tensor: segments by key, the program's constants, payloads."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from executorch.exir import schema

from edgecompile.backends import Extent
from edgecompile.backends.executorch_graph import devices, scope
from edgecompile.backends.executorch_graph.pte_read import PteReader


def extents(file: Path) -> Iterator[Extent]:
    """Every tensor's bytes; a payload that packs tensors of its own gives those too."""
    reader = PteReader(file)
    for key in reader.named:
        yield Extent(key, (file.name, reader.data_at(key)), reader.data(key))
    yield from _constants(reader, file.name)
    yield from _payloads(reader, file.name)


def _constants(reader: PteReader, file: str) -> Iterator[Extent]:
    for tensor in reader.constants():
        at, info = tensor.data_buffer_idx, tensor.extra_tensor_info
        name = info.fully_qualified_name if info else ""
        data = reader.constant(at, reader.bytes_of(tensor))
        yield Extent(name or f"constant {at}", (file, reader.constant_at(at)), data)


def _payloads(reader: PteReader, file: str) -> Iterator[Extent]:
    """What each delegate call was compiled to: one that repeats another is a duplicate as well."""
    for plan in reader.program.execution_plan:
        for at, delegate in enumerate(plan.delegates):
            data, place = reader.payload(delegate), delegate.processed
            inline = place.location == schema.DataLocation.INLINE
            where = f"{file}, {'inline' if inline else 'segment'}"
            yield Extent(f"{plan.name}: delegate {at}", (where, place.index), data)
            if delegate.id == scope.DEVICES["coreml"].delegate:
                yield from devices.extents(bytes(data), scope.DEVICES["coreml"], at)
