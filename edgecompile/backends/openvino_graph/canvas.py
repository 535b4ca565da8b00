"""What every part of a drawn decoder uses: inputs, constants, products, norms."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgecompile.backends.decoders import DecoderPlan
from edgecompile.backends.joining import JOIN, joinable
from edgecompile.backends.openvino_graph import compressed
from edgecompile.backends.openvino_graph.compressed import Constants, constant, named
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme

LAST_TOKENS = "last_tokens"
Value: TypeAlias = ov.Node | ov.Output


def inputs() -> dict[str, ov.Node]:
    """The graph's inputs by name."""
    both = [-1, -1]
    shapes = {"input_ids": both, "attention_mask": both, "position_ids": both,
              "beam_idx": [-1], LAST_TOKENS: [1]}  # fmt: skip
    made = {}
    for name, shape in shapes.items():
        kind = np.int32 if name == "beam_idx" else np.int64
        made[name] = named(ops.parameter(ov.PartialShape(shape), kind), name)
        made[name].output(0).set_names({name})
    return made


@dataclass
class Canvas:
    """The graph so far: nodes that several others read, and the ends of its states."""

    model: Model
    plan: DecoderPlan
    constants: Constants
    schemes: dict[str, Scheme]
    inputs: dict[str, ov.Node] = field(default_factory=inputs)
    shared: dict[str, ov.Node] = field(default_factory=dict)
    sinks: list[ov.Node] = field(default_factory=list)

    def ints(self, values: int | Sequence[int]) -> ov.Node:
        """A constant int64, one for all that ask for those values."""
        label = f"int64 {values}"
        if label not in self.shared:
            self.shared[label] = constant(np.array(values, np.int64), label)
        return self.shared[label]

    def number(self, value: float) -> ov.Node:
        """A constant float32 [], one for all that ask for that value."""
        label = f"float32 {np.float32(value)}"
        if label not in self.shared:
            self.shared[label] = constant(np.array(value, np.float32), label)
        return self.shared[label]

    def source(self, name: str) -> str:
        """The source's name of a tensor; empty if the model has none."""
        return self.plan.sources.get(name, "")

    def rows(self, name: str) -> int:
        """Rows of a weight: what its product puts out."""
        return self.model.weights.infos[self.source(f"{name}.weight")].shape[0]

    def floats(self, name: str) -> ov.Node:
        """A float tensor under its source's name."""
        source = self.source(name)
        if source not in self.shared:
            self.shared[source] = self.constants.add(self.model.dense(source), source)
        return self.shared[source]

    def norm_weight(self, name: str) -> ov.Node:
        """What a norm multiplies with, under its tensor's source name."""
        source = self.source(name)
        if source not in self.shared:
            values = self.plan.norm_weight(self.model, source)
            self.shared[source] = self.constants.add(values, source)
        return self.shared[source]

    def weight(self, names: Sequence[str]) -> ov.Node:
        """Weights [out, in], rows below rows: codes where they have some."""
        sources = [self.source(f"{name}.weight") for name in names]
        label = JOIN.join(sources)
        if sources[0] not in self.schemes:
            return self.floats(f"{names[0]}.weight")
        if label not in self.shared:
            tensors = [self.model.quantized[source] for source in sources]
            for source, tensor in zip(sources, tensors, strict=True):
                if tensor.inputs is not None:
                    raise compressed.factors_refused(source, "a decoder's are not multiplied")
            self.shared[label] = compressed.weight(sources, tensors, self.constants)
        return self.shared[label]

    def norm(self, name: str, value: Value) -> ov.Node:
        """RMSNorm (Zhang & Sennrich 2019) over the last axis, as the plug-in knows it.

        Or layer normalization (Ba et al. 2016), where the family has that.
        """
        if self.plan.family.centred:
            return self._layer_norm(name, value)
        mean = ops.reduce_mean(ops.power(value, self.number(2)), self.ints([-1]), True)
        root = ops.sqrt(ops.add(mean, self.number(self.plan.epsilon)))
        normed = ops.multiply(value, ops.divide(self.number(1), root))
        return named(ops.multiply(self.norm_weight(f"{name}.weight"), normed), name)

    def _layer_norm(self, name: str, value: Value) -> ov.Node:
        epsilon = self.plan.epsilon
        normed = ops.mvn(value, self.ints([-1]), True, epsilon, "INSIDE_SQRT")
        scaled = ops.multiply(normed, self.norm_weight(f"{name}.weight"))
        return named(ops.add(scaled, self.floats(f"{name}.bias")), name)

    def products(self, names: Sequence[str], value: Value) -> list[Value]:
        """`value` times each of the weights [out, in] transposed, plus its bias if there is one.

        Neighbours on one scheme are one product, cut apart after it: a step of one token then
        waits for fewer starts of the threads, and its input is rounded to 8 bits once.
        """
        results: list[Value] = []
        for group in joinable(names, self.plan.sources, self.schemes):
            whole = self.product(group, value, JOIN.join(group))
            if len(group) == 1:
                results.append(whole)
                continue
            sizes = self.ints([self.rows(name) for name in group])
            results += ops.variadic_split(whole, self.ints(-1), sizes).outputs()
        return results

    def product(self, names: Sequence[str], value: Value, label: str) -> ov.Node:
        """One product, of weights below each other."""
        made = ops.matmul(value, self.weight(names), False, True)
        biases = [source for name in names if (source := self.source(f"{name}.bias"))]
        if biases:
            values = np.concatenate([self.model.dense(name) for name in biases])
            made = ops.add(made, self.constants.add(values, JOIN.join(biases)))
        return named(made, label)
