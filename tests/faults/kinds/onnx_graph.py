"""Faults of a graph for ONNX Runtime: its weights, as the manifest says, are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.faults.edits import Array, graph, initializer, nodes
from tests.faults.planting import Plant, fault
from tests.faults.twins import LIMITS, Clean, Twin

DECODER = Twin("decoder", "onnxruntime", "gptq", 8)
CLASSIFIER = Twin("classifier", "onnxruntime")


def attribute(kind: str, name: str, change: Callable[[Any, float], Any]) -> Plant:
    """An attribute of all nodes of a kind through `change`."""

    def plant(folder: Path, _: Clean, magnitude: float) -> None:
        with graph(folder) as found:
            for node in nodes(found, kind):
                (one,) = [a for a in node.attribute if a.name == name]
                value = change(helper.get_attribute_value(one), magnitude)
                one.CopyFrom(helper.make_attribute(name, value))

    return plant


def angles(folder: Path, change: Callable[[Array], Array]) -> None:
    """The rotary tables written again from changed angles [positions, pairs]."""
    found: dict[str, Array] = {}
    initializer(folder, "cos_cache", lambda table: found.update(shape=np.array(table.shape)))
    positions, pairs = found["shape"]
    bases = 10000.0 ** -(np.arange(pairs) / pairs)
    turned = change(np.outer(np.arange(positions), bases))
    initializer(folder, "cos_cache", lambda table: np.copyto(table, np.cos(turned)))
    initializer(folder, "sin_cache", lambda table: np.copyto(table, np.sin(turned)))


@fault("rope base", "onnx", DECODER, "graph",
       ladder=(1.0, 0.3, 0.1, 0.03, 0.01), at=0.03, unit="relative")  # fmt: skip
def rope_base(folder: Path, _: Clean, magnitude: float) -> None:
    """The rotary table is of another base."""

    def other(right: Array) -> Array:
        pairs = right.shape[1]
        turned: Array = right * (1 + magnitude) ** -(np.arange(pairs) / pairs)
        return turned

    angles(folder, other)


@fault("bfloat16 overflow", "onnx", DECODER, "graph",
       ladder=(2, 3, 4, 5, 6, 7), at=6, unit="bits of fraction")  # fmt: skip
def overflowing_positions(folder: Path, _: Clean, magnitude: float) -> None:
    """Positions in a short float: of 7 bits (bfloat16) those beyond 256 fall together."""

    def shorter(right: Array) -> Array:
        frequencies, dropped = right[1], np.uint32(23 - int(magnitude))
        bits = np.arange(len(right), dtype=np.float32).view(np.uint32)
        bits = (bits + (np.uint32(1) << (dropped - np.uint32(1)))) >> dropped << dropped
        return np.outer(bits.view(np.float32), frequencies)

    angles(folder, shorter)


fault("rotary pairs interleaved", "onnx", DECODER, "graph", slow=True)(
    attribute("GroupQueryAttention", "rotary_interleaved", lambda _, __: 1)
)
fault("attention scale", "onnx", DECODER, "graph", slow=True,
      ladder=(2, 1.5, 1.2, 1.1, 1.05), at=1.2, unit="times")(
    attribute("GroupQueryAttention", "scale", lambda scale, magnitude: scale * magnitude)
)  # fmt: skip
fault("sliding window", "onnx", DECODER, "graph", slow=True,
      ladder=(4, 16, 64, 128, 160, 192), at=160, unit="tokens")(
    attribute("GroupQueryAttention", "local_window_size", lambda _, tokens: int(tokens))
)  # fmt: skip
fault("scores soft-capped", "onnx", DECODER, "graph", slow=True,
      ladder=(1, 2, 5, 10, 20, 50), at=10, unit="is the cap")(
    attribute("GroupQueryAttention", "softcap", lambda _, cap: float(cap))
)  # fmt: skip
fault("norm's epsilon", "onnx", DECODER, "sealed",
      ladder=(10, 1, 0.1, 1e-3, 1e-5), at=1e-5, unit="relative")(
    attribute("SkipSimplifiedLayerNormalization", "epsilon", lambda e, by: e * (1 + by))
)  # fmt: skip


@fault("gate and up swapped", "onnx", DECODER, "graph", slow=True)
def gate_and_up(folder: Path, _: Clean, __: float) -> None:
    """The two halves of a gated product change places."""
    with graph(folder) as found:
        for node in nodes(found, "Split"):
            node.output[0], node.output[1] = node.output[1], node.output[0]


@fault("float16 overflow", "onnx", DECODER, "graph",
       ladder=(1, 2, 4, 8, 16, 32), at=16, unit="is the largest number")  # fmt: skip
def overflow(folder: Path, _: Clean, magnitude: float) -> None:
    """What passes a layer becomes infinite beyond a largest number."""
    with graph(folder) as found:
        (product,) = [n for n in found.node if n.output[0] == "model.layers.1.mlp.down_proj"]
        product.output[0] = "small"
        for name, value in (("ceiling", magnitude), ("infinite", np.inf)):
            number = onnx.numpy_helper.from_array(np.array(value, np.float32), name)
            found.initializer.append(number)
        added = [
            helper.make_node("Abs", ["small"], ["size"]),
            helper.make_node("Greater", ["size", "ceiling"], ["over"]),
            helper.make_node(
                "Where", ["over", "infinite", "small"], ["model.layers.1.mlp.down_proj"]
            ),
        ]
        at = list(found.node).index(product) + 1
        for place, node in enumerate(added, at):
            found.node.insert(place, node)


@fault("head with another scale", "onnx", DECODER, "sealed", slow=True,
       ladder=(2, 1.5, 1.2, 1.1, 1.05, 1.02), at=1.2, unit="times")  # fmt: skip
def tied_scale(folder: Path, _: Clean, magnitude: float) -> None:
    """All logits of the tied head are too large."""
    initializer(folder, "model.norm.weight", lambda norm: np.multiply(norm, magnitude, norm))


@fault("class scores scaled", "onnx", CLASSIFIER, "sealed", ladder=(10, 3, 2, 1.5), at=10,
       unit="times")  # fmt: skip
def scores_scaled(folder: Path, _: Clean, magnitude: float) -> None:
    """All scores are too large, so that the likeliest class is too sure."""
    for name in ("classifier.weight", "body.classifier.bias"):
        initializer(folder, name, lambda table: np.multiply(table, magnitude, table))


@fault("class scores shifted", "onnx", CLASSIFIER, "graph", slow=True,
       ladder=(4, 2, 1, 0.5, 0.25, 0.1), at=0.25, unit="logits")  # fmt: skip
def shifted(folder: Path, _: Clean, magnitude: float) -> None:
    """The first class is favoured."""

    def change(bias: Array) -> None:
        bias[0] += magnitude

    initializer(folder, "body.classifier.bias", change)


@fault("positions beyond the windows", "onnx", DECODER, "graph")  # fmt: skip
def late_positions(folder: Path, _: Clean, __: float) -> None:
    """The rotary table ends where the check's windows end."""
    for name in ("cos_cache", "sin_cache"):
        initializer(folder, name, lambda table: table[LIMITS.window :].fill(0))

