"""Quality against size, where reports of the same model lie beside each other."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.metrics import Measurement
from edgecompile.report import CheckReport, Row
from edgecompile.report.plots import Tick, place, ticks
from edgecompile.statistics.verdicts import ideal

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
    logarithmic: bool


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
    across, scale = _room(sizes), _scale(main, values)
    points = [
        Point(n, one, size, row, place(size.value, *across), scale.top(row.value), one is report)
        for n, (one, size, row) in enumerate(known, 1)
    ]
    return Frontier(
        main.metric, tuple(points), tuple(ticks(*across, 3)), tuple(scale.ticks()),
        scale.logarithmic,
    )  # fmt: skip


@dataclass(frozen=True)
class _Scale:
    """From the top, in per cent: the loss, or its logarithm, between two ends."""

    best: float
    sign: int  # of a loss: -1 where more is better
    low: float
    high: float
    logarithmic: bool

    def top(self, value: float) -> float:
        loss = (value - self.best) * self.sign
        return place(math.log10(loss) if self.logarithmic else loss, self.low, self.high)

    def ticks(self) -> list[Tick]:
        if not self.logarithmic:
            ends = sorted(self.best + self.sign * end for end in (self.low, self.high))
            return [Tick(round(100 - tick.at, 2) if self.sign < 0 else tick.at, tick.text)
                    for tick in ticks(ends[0], ends[1], 3)]  # fmt: skip
        exponents = range(math.ceil(self.low), math.floor(self.high) + 1)
        losses = [times * 10.0**n for n in (math.floor(self.low), *exponents) for times in (1, 3)]
        values = [self.best + self.sign * loss for loss in losses
                  if self.low <= math.log10(loss) <= self.high]  # fmt: skip
        return [Tick(self.top(value), f"{value:.10g}") for value in values]


def _scale(row: Row, values: Sequence[float]) -> _Scale:
    """Of the loss; logarithmic where the largest is five times the smallest and more."""
    sign = -1 if row.better == "higher" else 1
    best = ideal(Measurement(row.metric, row.value, "", row.better, 0), 0.0)
    losses = [(value - best) * sign for value in values]
    logarithmic = min(losses) > 0 and max(losses) >= 5 * min(losses)
    ends = _room([math.log10(loss) for loss in losses] if logarithmic else losses)
    return _Scale(best, sign, *ends, logarithmic)


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
