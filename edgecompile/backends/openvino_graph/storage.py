"""Names and files: the same bytes from the same graph."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

GRAPH, DATA = "openvino_model.xml", "openvino_model.bin"
PLACE = re.compile(rb'offset="(\d+)" size="(\d+)"')  # of a constant, in the XML
ALIGNMENT = 64  # bytes


def number(graph: ov.Model, everything: bool) -> None:
    """Name nodes by their kind and place: those without a name, or `everything` but the inputs.

    Exporters and the engine count through a process, so their names differ from run to run.
    """
    for index, node in enumerate(graph.get_ordered_ops()):
        if node.get_type_name() == "Parameter":
            continue
        if everything or node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()} {index}")
        for port in node.outputs():
            readers = (reader.get_node() for reader in port.get_target_inputs())
            if all(reader.get_type_name() != "Result" for reader in readers):
                port.set_names(set())


def write(graph: ov.Model, folder: Path) -> None:
    """openvino_model.xml and openvino_model.bin, without a word about how they came to be."""
    _serialize(graph, folder / GRAPH, folder / DATA)


def write_graphs(graphs: Mapping[str, ov.Model], folder: Path) -> dict[str, str]:
    """`<name>.xml` of each and one openvino_model.bin, each constant in it once; files by name."""
    places: dict[bytes, int] = {}  # SHA-256 -> offset
    with (folder / DATA).open("wb") as whole:
        for name, graph in graphs.items():
            text, own = folder / f"{name}.xml", folder / f"{name}.bin"
            _serialize(graph, text, own)
            values = np.memmap(own, np.uint8, "r")

            def moved(found: re.Match[bytes], values: NDArray[np.uint8] = values) -> bytes:
                start, size = int(found[1]), int(found[2])
                raw = values[start : start + size].tobytes()
                digest = hashlib.sha256(raw).digest()
                if digest not in places:
                    whole.write(b"\0" * (-whole.tell() % ALIGNMENT))
                    places[digest] = whole.tell()
                    whole.write(raw)
                return b'offset="%d" size="%d"' % (places[digest], size)

            text.write_bytes(PLACE.sub(moved, text.read_bytes()))
            del values
            own.unlink()
    return {name: f"{name}.xml" for name in graphs}


def _serialize(graph: ov.Model, text: Path, data: Path) -> None:
    number(graph, everything=False)
    for node in graph.get_ordered_ops():
        info = node.get_rt_info()
        for key in list(info):
            del info[key]
    ov.serialize(graph, str(text), str(data))
