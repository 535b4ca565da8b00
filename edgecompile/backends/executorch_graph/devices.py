"""Delegates for devices that are not here: how to ask for one, and to read what it holds."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from edgecompile.backends import Decoded, Extent
from edgecompile.backends.executorch_graph.delegated import Constants, joined
from edgecompile.backends.executorch_graph.pte_read import PteReader
from edgecompile.backends.executorch_graph.scope import Device
from edgecompile.backends.quiet import quiet
from edgecompile.errors import MissingLibraryError


def partitioner(device: Device) -> Any:
    """ExecuTorch's own for that device."""
    return _module(device).partitioner(device.precision)


def settled(payload: bytes, device: Device) -> bytes:
    """A delegate's payload without what its exporter draws at random."""
    same: bytes = _module(device).settled(payload)
    return same


def constants(reader: PteReader, device: Device) -> Constants:
    """What the delegates of that device hold."""
    payloads = reader.payloads(device.delegate)
    return joined([_module(device).constants(payload, reader.data) for payload in payloads])


def extents(payload: bytes, device: Device, number: int) -> Iterator[Extent]:
    """The tensors in the payload of a device that packs them into it."""
    for name, offset, data in _module(device).stored(payload):
        yield Extent(name, (f"payload {number}", offset), data)


def decode(reader: PteReader, device: Device, manifest: Mapping[str, Any]) -> Decoded:
    """Tensors under their source names, from the sealed file."""
    return constants(reader, device).decoded(manifest)


def _module(device: Device) -> Any:
    """Loaded when asked for: both take seconds, and coremltools is not on every system."""
    try:
        with quiet():
            return import_module(f"edgecompile.backends.executorch_graph.{device.name}")
    except ImportError as error:
        raise MissingLibraryError(
            "executorch backend", str(error), f"what {device.name} is written with",
            "pip install edgecompile[executorch]",
        ) from error  # fmt: skip
