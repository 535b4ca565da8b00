"""What restoring each layer and each tensor wins back, beside what it costs in bytes."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgecompile.explain.search import Part, Unit, alone
from edgecompile.explain.subject import Subject
from edgecompile.numerics.schemes import Scheme


@dataclass(frozen=True)
class Restored:
    """A layer or a tensor; `gain` is divergence won back by giving it the source's floats.

    Where it was not `measured`, it is the share of a larger part that was. Bytes are what codes and
    16 bits a scale would grow by.
    """

    name: str
    kind: str  # layer, tensor
    gain: float
    measured: bool
    bytes_float16: int
    bytes_int8: int


def rows(
    subject: Subject, parts: Sequence[Part], gains: Mapping[Unit, float]
) -> Iterator[Restored]:
    """Layers and then tensors, those that win most first."""
    layers = dict(zip(subject.units, subject.groups.values(), strict=True))
    measured = dict(alone(parts, tuple(subject.units.values())))
    known = {part.units[0] for part in parts if len(part.units) == 1}

    def of_layer(number: int, name: str) -> Restored:
        total = sum(gains[unit] for unit in subject.units[name])
        gain = measured.get(number, total)
        return Restored(name, "layer", gain, number in measured, *_bytes(subject, layers[name]))

    whole = [of_layer(number, name) for number, name in enumerate(layers)]
    single = [
        Restored(unit[0], "tensor", gain, unit in known, *_bytes(subject, unit))
        for unit, gain in gains.items()
        if len(unit) == 1
    ]
    for found in (whole, single):
        yield from sorted(found, key=lambda row: -row.gain)


def _bytes(subject: Subject, names: Iterable[str]) -> tuple[int, int]:
    """What tensors with codes would grow by as float16, and at 8 bits a row."""
    schemes = {row["name"]: row["scheme"] for row in subject.data["tensors"]}
    half = eight = 0
    for name in (n for n in names if n in subject.bits):
        shape = subject.model.weights.infos[name].matrix
        now = _stored(shape, Scheme.parse(schemes[name]))
        half += 2 * math.prod(shape) - now
        eight += _stored(shape, Scheme(8, 0)) - now
    return half, eight


def _stored(shape: tuple[int, int], scheme: Scheme) -> int:
    """Bytes of codes and scales of 16 bits."""
    rows_, columns = shape
    return (rows_ * columns * scheme.bits + 7) // 8 + 2 * rows_ * scheme.groups(columns)
