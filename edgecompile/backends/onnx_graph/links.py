"""Who reads each value of a graph, for rules that look at a node's neighbours."""
from __future__ import annotations

import onnx


class Links:
    """Readers by value name; a snapshot of the nodes it was made from."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}

    def only_reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The one node that reads a value, if it is of that kind and the value is no output."""
        readers = self._readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == kind and name not in self.outputs:
            return readers[0]
        return None
