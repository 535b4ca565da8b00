"""Names and files: the same bytes from the same graph."""
from __future__ import annotations

from pathlib import Path

import openvino as ov

GRAPH, DATA = "openvino_model.xml", "openvino_model.bin"


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
    number(graph, everything=False)
    for node in graph.get_ordered_ops():
        info = node.get_rt_info()
        for key in list(info):
            del info[key]
    ov.serialize(graph, str(folder / GRAPH), str(folder / DATA))
