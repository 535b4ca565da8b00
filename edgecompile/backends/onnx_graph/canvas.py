"""What a decoder's graph is drawn on: nodes, and tensors that are in the file already."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgecompile.backends.decoders import DecoderPlan
from edgecompile.backends.onnx_graph import storage
from edgecompile.backends.onnx_graph.form import GraphForm
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme


@dataclass
class Canvas:
    """Nodes and tensor headers so far."""

    model: Model
    plan: DecoderPlan
    data: storage.DataFile
    form: GraphForm
    schemes: dict[str, Scheme]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def node(
        self, kind: str, inputs: Sequence[str], name: str, outputs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:  # fmt: skip
        """Add a node; its one output has its name where no others are given."""
        made = helper.make_node(kind, list(inputs), list(outputs) or [name], name, **attributes)
        self.nodes.append(made)
        return str(made.output[0])

    def constant(self, name: str, *parts: NDArray[Any]) -> str:
        """A tensor of the file; one that is there already is not written again."""
        if name not in self.tensors:
            self.tensors[name] = self.data.add(name, *parts)
        return name

    def source(self, name: str) -> str:
        """The source's name of a tensor; empty if the model has none."""
        return self.plan.sources.get(name, "")

    def rows(self, name: str) -> int:
        """Rows of a weight: what its product puts out."""
        return self.model.weights.infos[self.source(name)].shape[0]

    def floats(self, name: str) -> str:
        """A float tensor under its source's name."""
        source = self.source(name)
        return source if source in self.tensors else self.constant(
            source, self.form.cast(self.model.dense(source))
        )

    def norm_weight(self, name: str) -> str:
        """What a norm multiplies with, under its tensor's source name."""
        source = self.source(name)
        if source in self.tensors:
            return source
        weight = self.plan.norm_weight(self.model, source)
        return self.constant(source, self.form.cast(weight))

    def number(self, name: str, value: float) -> str:
        """A constant [] of the graph's floats."""
        return self.constant(name, np.array(value, self.form.dtype))
