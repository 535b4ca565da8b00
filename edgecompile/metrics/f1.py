"""Entity-level F1 of tagged text, by the strict reading of IOB2 that seqeval has."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics import Measurement
from edgecompile.statistics.evidence import Function

Tags = Sequence[str]  # one a word: O, B-PER, I-PER, ...
Entity = tuple[int, int, str]  # first word, word after the last, type


def entities(tags: Tags) -> Iterator[Entity]:
    """Runs that begin with B- and go on with I- of the same type; any other I- is in none."""
    at = 0
    while at < len(tags):
        start, kind = at, tags[at].removeprefix("B-")
        at += 1
        if not tags[start].startswith("B-"):
            continue
        while at < len(tags) and tags[at] == f"I-{kind}":
            at += 1
        yield start, at, kind


def f1(truth: Sequence[Tags], found: Sequence[Tags]) -> float:
    """2 hits / (entities in `truth` + entities found), all texts together; 0 without any hit.

    A hit has the same words and the same type. NaN where neither side has an entity.
    """
    hits = total = 0
    for right, other in zip(truth, found, strict=True):
        a, b = set(entities(right)), set(entities(other))
        hits, total = hits + len(a & b), total + len(a) + len(b)
    return 2 * hits / total if total else float("nan")


def measure(
    truth: Sequence[Tags], source: Sequence[Tags], found: Sequence[Tags]
) -> tuple[Measurement, ...]:
    """`f1_ratio` = f1(found) / f1(source), and both; samples are the entities of `truth`."""
    count = sum(1 for tags in truth for _ in entities(tags))
    one, other = f1(truth, source), f1(truth, found)

    def ratio(kept: NDArray[np.intp]) -> float:
        sides = ([side[at] for at in kept] for side in (truth, source, found))
        right, before, after = sides
        base = f1(right, before)
        return f1(right, after) / base if base else float("nan")

    alone = np.arange(len(truth))
    evidence = Function(np.zeros(len(truth)), alone, ratio, smallest=count)
    value = other / one if one else float("nan")
    return (
        Measurement("f1_ratio", value, "", "higher", count, evidence),
        Measurement("f1", other, "", "higher", count),
        Measurement("f1_source", one, "", "higher", count),
    )
