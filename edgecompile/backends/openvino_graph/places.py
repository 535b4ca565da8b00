"""Find a model's tensors among the constants of a converted graph, by content."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import openvino as ov

from edgecompile.backends.onnx_graph.weights import SMALLEST_MATCHED, fingerprint
from edgecompile.model import Model


@dataclass(frozen=True)
class Place:
    """A constant that holds the source tensor(s) `names`; `transposed`: as [in, out]."""

    constant: ov.Node
    names: tuple[str, ...]
    transposed: bool = False


def find(graph: ov.Model, model: Model) -> list[Place]:
    """Each constant that holds a source tensor, in the graph's order.

    Source tensors with equal bytes are given to their constants in order; what is left over goes
    to the last of them. Of several constants with one tensor's bytes the later have it too.
    """
    constants = [(node, key) for node, key in _floats(graph)]
    owners = _owners(model, {tuple(key[0]) for _, key in constants})
    left = {key: list(names) for key, names in owners.items()}
    count: dict[str, int] = {}
    found = []
    for node, (_, key, flipped) in constants:
        name = next((k for k in (key, flipped) if k in owners), "")
        if name:
            count[name] = count.get(name, 0) + 1
            found.append((node, name, name != key))
    places = []
    for node, key, transposed in found:
        count[key] -= 1
        share = left[key]
        names = share[:] if not count[key] else share[:1]
        if len(share) > 1:
            del share[:1]
        places.append(Place(node, tuple(names), transposed))
    return places


def _floats(graph: ov.Model) -> Iterator[tuple[ov.Node, tuple[tuple[int, ...], str, str]]]:
    """float32 constants with their shape and the fingerprints of their values and the transpose."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        values = node.data
        if values.size < SMALLEST_MATCHED:
            continue
        flipped = fingerprint(values.T) if values.ndim == 2 else ""
        yield node, (tuple(values.shape), fingerprint(values), flipped)


def _owners(model: Model, shapes: set[tuple[int, ...]]) -> Mapping[str, list[str]]:
    wanted = shapes | {shape[::-1] for shape in shapes}
    owners: dict[str, list[str]] = {}
    for name, info in model.weights.infos.items():
        if tuple(info.shape) in wanted and info.dtype.startswith(("F", "B")):
            replaced = name in model.replaced
            values = model.replaced[name] if replaced else model.weights.float32(name)
            owners.setdefault(fingerprint(values), []).append(name)
    return owners
