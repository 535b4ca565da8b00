"""The distribution of the timed calls: a histogram with its median and 90th percentile."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.report.plots import Tick, finite, place, ticks

BARS = 24
LEAST = 5  # calls that make a distribution


@dataclass(frozen=True)
class Bar:
    """A bin: its left edge, width and height in per cent, and how many calls it holds."""

    left: float
    width: float
    height: float
    count: int
    text: str


@dataclass(frozen=True)
class Latencies:
    """Bars and the places of the median and the 90th percentile."""

    bars: tuple[Bar, ...]
    median: Tick
    slow: Tick
    ticks: tuple[Tick, ...]
    calls: int
    slowest: float


def latencies(milliseconds: Sequence[object]) -> Latencies | None:
    """None where fewer than five calls were kept."""
    values = sorted(finite(milliseconds))
    if len(values) < LEAST:
        return None
    low, high = values[0], max(values[-1], values[0] * 1.001 + 1e-9)
    margin = (high - low) * 0.04
    low, high = max(low - margin, 0.0), high + margin
    middle, slow = _at(values, 0.5), _at(values, 0.9)
    return Latencies(
        tuple(_bars(values, low, high)),
        Tick(place(middle, low, high), f"{middle:.3g}"),
        Tick(place(slow, low, high), f"{slow:.3g}"),
        tuple(ticks(low, high)), len(values), values[-1],
    )  # fmt: skip


def _at(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    return values[max(math.ceil(share * len(values)) - 1, 0)]


def _bars(values: Sequence[float], low: float, high: float) -> list[Bar]:
    count = min(BARS, max(5, round(math.sqrt(len(values)) * 2)))
    width = (high - low) / count
    held = [0] * count
    for value in values:
        held[min(int((value - low) / width), count - 1)] += 1
    return [
        Bar(
            round(100 * n / count, 3), round(100 / count, 3), round(100 * here / max(held), 2),
            here,
            f"{low + n * width:.3g} to {low + (n + 1) * width:.3g} ms: {here}",
        )
        for n, here in enumerate(held) if here
    ]  # fmt: skip
