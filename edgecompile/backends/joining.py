"""Tensors that one stored array holds: which products can be one, names, and where each is."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.numerics.schemes import Float32, Scheme

CODES, SCALES = ".codes", ".scales"  # of an array's name, after the source's
JOIN = "|"  # between source names whose rows one array holds
TRANSPOSED = ".transposed"  # after the source's name: [in, out]


@dataclass(frozen=True)
class Rows:
    """A source tensor among the rows of an array, from row `start` on."""

    array: str
    start: int


def joinable(
    names: Sequence[str], sources: Mapping[str, str], schemes: Mapping[str, Scheme]
) -> list[list[str]]:
    """Runs of layers whose weights have codes on one scheme, and all or none a bias.

    `sources` has the source tensor of each name with `.weight` or `.bias` that there is.
    """
    groups: list[list[str]] = []
    before = None
    for name in names:
        scheme = schemes.get(sources.get(f"{name}.weight", ""))
        kind = scheme and (scheme, f"{name}.bias" in sources)
        if kind and kind == before:
            groups[-1].append(name)
        else:
            groups.append([name])
        before = kind
    return groups


def rows_in(names: Iterable[str], counts: Mapping[str, int]) -> dict[str, Rows]:
    """Where each tensor is: `a|b.codes` holds the rows of a, then those of b."""
    found: dict[str, Rows] = {}
    for name in names:
        sources, suffix = name.removesuffix(CODES), CODES * name.endswith(CODES)
        start = 0
        for source in sources.split(JOIN):
            found[source + suffix] = Rows(name, start)
            start += counts.get(source, 0)
    return found


def has(found: Mapping[str, Rows], name: str) -> bool:
    """Whether a float tensor is among them, as it is or transposed."""
    return name in found or name + TRANSPOSED in found


def dense(
    array: Callable[[str], NDArray[Any]], found: Mapping[str, Rows], name: str,
    shape: Sequence[int],
) -> Float32:  # fmt: skip
    """A float tensor in the source's own orientation, of what `array` reads by name."""
    place = found.get(name)
    if place is None:
        values = array(name + TRANSPOSED).T
    elif JOIN in place.array:
        values = array(place.array)[place.start : place.start + shape[0]]
    else:
        values = array(place.array)
    return np.array(values, np.float32)
