"""Names and files: the same bytes from the same graph."""
from __future__ import annotations

from pathlib import Path

import openvino as ov

GRAPH, DATA = "openvino_model.xml", "openvino_model.bin"


def number(graph: ov.Model) -> None:
    """Name every node but the inputs by its kind and place: exporters count through a process."""
    inputs = {node.get_friendly_name() for node in graph.get_parameters()}
    for index, node in enumerate(graph.get_ordered_ops()):
        if node.get_friendly_name() not in inputs:
            node.set_friendly_name(f"{node.get_type_name()}.{index}")
            for port in node.outputs():
                if node.get_type_name() != "Parameter" and not _is_result(port):
                    port.set_names(set())


def _is_result(port: ov.Output) -> bool:
    return any(to.get_node().get_type_name() == "Result" for to in port.get_target_inputs())


def write(graph: ov.Model, folder: Path) -> None:
    """openvino_model.xml and openvino_model.bin, without a word about how they came to be."""
    for node in graph.get_ordered_ops():
        info = node.get_rt_info()
        for key in list(info):
            del info[key]
    ov.serialize(graph, str(folder / GRAPH), str(folder / DATA))
