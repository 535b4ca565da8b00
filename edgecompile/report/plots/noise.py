"""Signal-to-noise of each layer's output, in the order of the model."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.report.plots import Tick, finite, place, ticks


@dataclass(frozen=True)
class Dot:
    """A layer: its place from the left, and from the top when alone and when all is quantized."""

    left: float
    alone: float | None
    cumulative: float | None
    text: str


@dataclass(frozen=True)
class Noise:
    """The dots, the axis of decibels and the layers with the least signal."""

    dots: tuple[Dot, ...]
    up: tuple[Tick, ...]
    worst: tuple[Mapping[str, Any], ...]


def noise(explained: Mapping[str, Any]) -> Noise | None:
    """None where explain.json measured no layer."""
    rows = [row for row in explained.get("layers", ()) if isinstance(row, Mapping)]
    values = finite([row.get(key) for row in rows for key in ("alone_db", "cumulative_db")])
    if not values:
        return None
    low, high = min(0.0, *values), max(values) * 1.08 + 1
    dots = [_dot(row, 100 * (n + 0.5) / len(rows), low, high) for n, row in enumerate(rows)]
    rising = tuple(Tick(round(100 - tick.at, 2), tick.text) for tick in ticks(low, high, 4))
    return Noise(tuple(dots), rising, tuple(_worst(rows)))


def _dot(row: Mapping[str, Any], left: float, low: float, high: float) -> Dot:
    alone, all_ = (
        round(100 - place(found[0], low, high), 2) if found else None
        for found in (finite([row.get(key)]) for key in ("alone_db", "cumulative_db"))
    )
    shown = ", ".join(
        f"{name} {row[key]:.1f} dB" for name, key in (("alone", "alone_db"),
        ("in the whole", "cumulative_db")) if finite([row.get(key)])
    )  # fmt: skip
    return Dot(round(left, 2), alone, all_, f"{row.get('layer', '')}: {shown}")


def _worst(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    known = [row for row in rows if finite([row.get("cumulative_db")])]
    return sorted(known, key=lambda row: float(row["cumulative_db"]))[:8]
