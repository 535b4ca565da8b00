"""Put a model's codes into a float graph, and name what it holds after the source."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgecompile.backends.joining import TRANSPOSED
from edgecompile.backends.openvino_graph import compressed, places
from edgecompile.backends.openvino_graph.compressed import constant, named
from edgecompile.backends.openvino_graph.places import Place
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.ranges import LEVELS, Range
from edgecompile.numerics.schemes import Float32

FACTORS, ENDS = ".inputs", (".low", ".high")  # of constants at a product's input
SCALED = ".scaled"


@dataclass(frozen=True)
class Rewritten:
    """Where the source's tensors are: `shared` maps one to the equal one that holds its values.

    `rounded` are weights whose product's input is rounded to 8 bits in its calibrated range.
    """

    shared: Mapping[str, str]
    absent: tuple[str, ...]
    rounded: frozenset[str]


@dataclass
class _Work:
    """The graph while it is rewritten; nodes that several readers share."""

    model: Model
    ranges: Mapping[str, Range]
    constants: compressed.Constants = field(default_factory=compressed.Constants)
    weights: dict[str, ov.Node] = field(default_factory=dict)
    inputs: dict[tuple[Any, ...], ov.Output] = field(default_factory=dict)
    rounded: set[str] = field(default_factory=set)


def rewrite(graph: ov.Model, model: Model, ranges: Mapping[str, Range]) -> Rewritten:
    """Replace every use of a quantized tensor; products with a range get 8-bit activations."""
    work, found = _Work(model, ranges), places.find(graph, model)
    for place in found:
        _name_or_compress(place, work)
    graph.validate_nodes_and_infer_types()
    shared = {n: place.names[0] for place in found for n in place.names[1:]}
    present = {name for place in found for name in place.names}
    absent = tuple(name for name in model.weights if name not in present)
    _refuse_changed([name for name in absent if name in model.quantized])
    return Rewritten(shared, absent, frozenset(work.rounded))


def _refuse_changed(names: Sequence[str]) -> None:
    """A quantized tensor that is not found as it was would ship other numbers than were chosen."""
    if names:
        raise UnsupportedError(
            "openvino backend", f"the exported graph does not hold {names[0]} as it is",
            "every quantized tensor", f"--set 'quantize.skip=[\"{names[0]}\"]'",
        )  # fmt: skip


def _name_or_compress(place: Place, work: _Work) -> None:
    """Codes in the place of floats, or the floats under the source's name."""
    name = place.names[0]
    if name not in work.model.quantized:
        place.constant.set_friendly_name(name + TRANSPOSED * place.transposed)
        return
    readers = list(place.constant.output(0).get_target_inputs())
    if name not in work.weights:
        work.weights[name] = _weight(name, work)
    value = work.weights[name]
    if place.transposed:
        order = constant(np.array([1, 0], np.int64), f"{name}.order")
        value = named(ops.transpose(value, order), name + TRANSPOSED)
    _change_inputs(name, readers, work)
    for reader in readers:
        reader.replace_source_output(value.output(0))


def _weight(name: str, work: _Work) -> ov.Node:
    tensor, shape = work.model.quantized[name], work.model.weights.infos[name].shape
    if len(shape) > 2:
        return compressed.kernels(name, tensor, shape, work.constants)
    return compressed.weight([name], [tensor], work.constants)


def _change_inputs(name: str, readers: Sequence[ov.Input], work: _Work) -> None:
    """Factors and 8-bit rounding before the one product that reads a weight."""
    factors, one = work.model.quantized[name].inputs, work.ranges.get(name)
    products = [r.get_node() for r in readers
                if r.get_node().get_type_name() == "MatMul" and r.get_index() == 1]
    if len(products) != len(readers):
        if factors is not None:
            kinds = [reader.get_node().get_type_name() for reader in readers]
            raise compressed.factors_refused(name, f"{kinds} reads it")
        return
    if one is not None:
        work.rounded.add(name)
    for product in products:
        product.input(0).replace_source_output(_input(name, product, factors, one, work))


def _input(
    name: str, product: ov.Node, factors: Float32 | None, one: Range | None, work: _Work
) -> ov.Output:
    """A product's input times its factors, rounded to 8 bits in its range; made once for each."""
    value = product.input_value(0)
    source = value.get_node().get_friendly_name(), value.get_index()
    key = source, None if factors is None else factors.tobytes(), one
    if key not in work.inputs:
        if factors is not None:
            value = named(
                ops.multiply(value, constant(factors, name + FACTORS)), name + SCALED
            ).output(0)
        if one is not None:
            value = named(_rounded(name, value, one), f"{name}.rounded").output(0)
        work.inputs[key] = value
    return work.inputs[key]


def _rounded(name: str, value: ov.Output, one: Range) -> ov.Node:
    low, high = (constant(end, name + at) for end, at in zip(bounds(one), ENDS, strict=True))
    return ops.fake_quantize(value, low, high, low, high, LEVELS + 1)


def bounds(one: Range) -> tuple[Float32, Float32]:
    """The float32 values of codes 0 and 255, arrays []."""
    scale = np.float32(one.scale)
    ends = np.float32(-one.zero) * scale, np.float32(LEVELS - one.zero) * scale
    return np.array(ends[0]), np.array(ends[1])
