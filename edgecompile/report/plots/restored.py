"""What restoring a layer or a tensor wins back, beside what it costs in bytes."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.report.plots import finite
from edgecompile.report.words import megabytes

ROWS = 10  # of layers, and of tensors


@dataclass(frozen=True)
class Gain:
    """One part: what it wins back, the bar's length in per cent, its price."""

    name: str
    kind: str
    gain: float
    share: float
    measured: bool
    float16: str
    int8: str


def restored(explained: Mapping[str, Any]) -> dict[str, list[Gain]]:
    """Layers, then tensors, those that win most first."""
    rows = [row for row in explained.get("restored", ()) if _sound(row)]
    top = max((float(row["gain"]) for row in rows), default=0.0)
    found: dict[str, list[Gain]] = {}
    for row in sorted(rows, key=lambda row: -float(row["gain"])):
        held = found.setdefault(str(row.get("kind", "layer")), [])
        if len(held) < ROWS:
            held.append(_gain(row, top))
    return found


def _sound(row: Any) -> bool:
    return isinstance(row, Mapping) and "name" in row and bool(finite([row.get("gain")]))


def _gain(row: Mapping[str, Any], top: float) -> Gain:
    gain = float(row["gain"])
    half, eight = (finite([row.get(key)]) for key in ("bytes_float16", "bytes_int8"))
    return Gain(
        str(row["name"]), str(row.get("kind", "layer")), gain,
        max(100 * gain / top, 0.0) if top > 0 else 0.0, bool(row.get("measured", True)),
        megabytes(half[0]) if half else "", megabytes(eight[0]) if eight and eight[0] else "",
    )  # fmt: skip
