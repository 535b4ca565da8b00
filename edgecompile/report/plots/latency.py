"""How long timed calls and tokens took: a histogram each, with its median and slow ends."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgecompile.metrics.cost import MANY, within
from edgecompile.report.plots import Tick, finite, place, ticks

BARS = 24
LEAST = 5  # calls that make a distribution
FAR = 4.0  # times the 90th percentile: where an axis ends that one call would stretch
# Lists of report.json, and what was timed.
KINDS = {
    "latencies_ms": "a call", "picture_latencies_ms": "a picture",
    "first_tokens_ms": "the first token", "tokens_ms": "a token after the first",
}  # fmt: skip


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
    """Bars, and the places of the median, the 90th and of many calls the 99th percentile."""

    name: str
    bars: tuple[Bar, ...]
    median: Tick
    slow: Tick
    tail: Tick | None
    ticks: tuple[Tick, ...]
    calls: int
    slowest: float
    beyond: int  # calls past the axis, in its last bar


def distributions(report: Mapping[str, Any]) -> list[Latencies]:
    """One a list of report.json that has enough times."""
    found = (latencies(report.get(key) or (), name) for key, name in KINDS.items())
    return [one for one in found if one is not None]


def latencies(milliseconds: Sequence[object], name: str = "a call") -> Latencies | None:
    """None where fewer than five calls were kept."""
    values = sorted(finite(milliseconds))
    if len(values) < LEAST:
        return None
    middle, slow, tail = median(values), within(values, 0.9), within(values, 0.99)
    low, high = values[0], max(values[-1], values[0] * 1.001 + 1e-9)
    beyond = sum(value > FAR * slow for value in values)
    high = max(value for value in values if value <= FAR * slow) if beyond else high
    margin = (high - low) * 0.04
    low, high = max(low - margin, 0.0), high + margin
    return Latencies(
        name, tuple(_bars(values, low, high, beyond)), _tick(middle, low, high),
        _tick(slow, low, high), _tick(tail, low, high) if len(values) >= MANY else None,
        tuple(ticks(low, high)), len(values), values[-1], beyond,
    )  # fmt: skip


def _tick(value: float, low: float, high: float) -> Tick:
    return Tick(place(value, low, high), f"{value:.3g}")


def _bars(values: Sequence[float], low: float, high: float, beyond: int) -> list[Bar]:
    count = min(BARS, max(5, round(math.sqrt(len(values)) * 2)))
    width = (high - low) / count
    held = [0] * count
    for value in values:
        held[min(int((value - low) / width), count - 1)] += 1
    ends = [f"to {low + (n + 1) * width:.3g} ms" for n in range(count)]
    if beyond:
        ends[-1] = "ms and more"
    return [
        Bar(
            round(100 * n / count, 3), round(100 / count, 3), round(100 * here / max(held), 2),
            here, f"{low + n * width:.3g} {ends[n]}: {here}",
        )
        for n, here in enumerate(held) if here
    ]  # fmt: skip
