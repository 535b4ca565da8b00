"""How much of a metric each stage lost, one after the other: the stage waterfall."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.metrics import Measurement
from edgecompile.report import Row
from edgecompile.report.plots import Tick, finite, place, ticks
from edgecompile.report.words import KEPT
from edgecompile.statistics.verdicts import ideal


@dataclass(frozen=True)
class Step:
    """A stage: from where to where the metric moved, in per cent, and its value after it."""

    stage: str
    value: float
    start: float
    end: float
    worse: bool
    most: bool  # of all stages the one that lost most

    @property
    def left(self) -> float:
        """Where the bar begins."""
        return min(self.start, self.end)

    @property
    def width(self) -> float:
        """Never so small that nothing is seen."""
        return max(abs(self.end - self.start), 0.4)


@dataclass(frozen=True)
class Waterfall:
    """One metric through all stages; `limit` is the place of its limit, if it has one."""

    metric: str
    steps: tuple[Step, ...]
    limit: float | None
    samples: int
    ticks: tuple[Tick, ...]

    @property
    def before(self) -> bool:
        """Whether it is beside the model that came in, not the one that was exported."""
        return self.metric.startswith(KEPT)


def waterfalls(stages: Sequence[Any], rows: Sequence[Row]) -> list[Waterfall]:
    """A waterfall a metric, in the order in which the metrics come."""
    known = [one for one in stages if _sound(one)]
    metrics = dict.fromkeys(str(one["metric"]) for one in known)
    limits = {row.metric: row for row in reversed(rows)}
    return [
        _drawn(name, [one for one in known if one["metric"] == name], limits.get(name))
        for name in metrics
    ]


def _sound(one: Any) -> bool:
    return (
        isinstance(one, Mapping) and {"stage", "metric", "value"} <= set(one)
        and bool(finite([one["value"]]))
    )  # fmt: skip


def _drawn(name: str, found: Sequence[Mapping[str, Any]], row: Row | None) -> Waterfall:
    best = _best(name, row)
    values = [float(one["value"]) for one in found]
    lost = [abs(value - best) for value in values]
    limit = row.limit if row is not None else None
    allowed = abs(limit - best) if limit is not None else math.nan
    top = max([*lost, *finite([allowed])], default=0.0) * 1.08 or 1.0
    most = max(range(len(lost)), key=lambda n: lost[n] - (lost[n - 1] if n else 0.0))
    steps = []
    before = 0.0
    for number, (one, after) in enumerate(zip(found, lost, strict=True)):
        steps.append(Step(
            str(one["stage"]), values[number], place(before, 0, top), place(after, 0, top),
            after >= before, number == most and after > before,
        ))  # fmt: skip
        before = after
    samples = max((int(n) for n in finite([one.get("samples") for one in found])), default=0)
    where = place(allowed, 0, top) if math.isfinite(allowed) else None
    return Waterfall(name, tuple(steps), where, samples, tuple(ticks(0, top, 3)))


def _best(name: str, row: Row | None) -> float:
    """The value that loses nothing; told from the name where the metric is not judged."""
    better = row.better if row is not None else _guess(name)
    return ideal(Measurement(name, 0.0, "", better, 0), 0.0)  # type: ignore[arg-type]


def _guess(name: str) -> str:
    higher = ("cosine", "agreement", "accuracy", "recall", "correlation", "ratio")
    return "higher" if any(part in name for part in higher) else "lower"
