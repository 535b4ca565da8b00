"""Quality against size, where reports of the same model lie beside each other."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.report import CheckReport, Row
from edgecompile.report.plots import Tick, place, ticks

QUALITY = (
    "cosine_mean", "kl_mean", "accuracy_ratio", "class_agreement", "rank_correlation",
    "word_accuracy_ratio", "relative_error",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A bundle: places from the left and from the top, in per cent."""

    number: int
    report: CheckReport
    size: Row
    quality: Row
    left: float
    top: float
    here: bool


@dataclass(frozen=True)
class Frontier:
    """The points, the metric on the vertical axis (better is up) and both axes' ticks."""

    metric: str
    points: tuple[Point, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def frontier(report: CheckReport, beside: Sequence[CheckReport]) -> Frontier | None:
    """None where no other report of the same model has the metric."""
    main = quality_row(report)
    if main is None:
        return None
    found = [(one, _row(one, "size"), _row(one, main.metric)) for one in (report, *beside)
             if one.model == report.model]  # fmt: skip
    known = [(one, size, row) for one, size, row in found if size is not None and row is not None]
    if len(known) < 2 or known[0][0] is not report:
        return None
    known.sort(key=lambda item: item[1].value)
    sizes = [size.value for _, size, _ in known]
    values = [row.value for _, _, row in known]
    across, up = _room(sizes), _room(values)
    higher = main.better == "higher"

    def height(at: float) -> float:
        return round(100 - at, 2) if higher else at

    points = [
        Point(n, one, size, row, place(size.value, *across), height(place(row.value, *up)),
              one is report)
        for n, (one, size, row) in enumerate(known, 1)
    ]  # fmt: skip
    rising = [Tick(height(tick.at), tick.text) for tick in ticks(*up, 3)]
    return Frontier(main.metric, tuple(points), tuple(ticks(*across, 3)), tuple(rising))


def quality_row(report: CheckReport) -> Row | None:
    """The metric that people ask for first."""
    rows = (_row(report, name) for name in QUALITY)
    return next((row for row in rows if row is not None), None)


def _row(report: CheckReport, metric: str) -> Row | None:
    found = (row for row in report.rows if row.metric == metric and math.isfinite(row.value))
    return next(found, None)


def _room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin
