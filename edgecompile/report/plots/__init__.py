"""Where the marks of each plot go: one file a plot, numbers only.

Horizontal places are per cent of the plot's width, so that a plot fits any screen while its text
keeps its size. The templates draw; they escape every name.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in per cent, and what stands there."""

    at: float
    text: str


def place(value: float, low: float, high: float) -> float:
    """Per cent of the way from `low` to `high`, kept within them."""
    if high <= low:
        return 50.0
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)


def ticks(low: float, high: float, count: int = 4) -> list[Tick]:
    """Round numbers between two ends: multiples of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    step = _step((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    found = [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
    return [Tick(place(value, low, high), _short(value, step)) for value in found]


def _step(least: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least * 0.999)


def _short(value: float, step: float) -> str:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}" if decimals < 6 else f"{value:.3g}"


def finite(values: Sequence[object]) -> list[float]:
    """The numbers among values from a file, those that are finite."""
    return [
        float(one) for one in values
        if isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
    ]  # fmt: skip
