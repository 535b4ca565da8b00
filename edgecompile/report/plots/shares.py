"""Each judged metric on one scale: the share of what its limit allows that it has lost."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.metrics import Measurement
from edgecompile.report import Row
from edgecompile.report.plots import Tick, place
from edgecompile.statistics.verdicts import ideal

ROOM = (1.25, 2.0, 4.0)  # how far the scale may reach; what lies beyond is drawn at its end
COSTS = (
    "size", "size_vs_float16", "load_time", "latency", "first_token", "decode_speed",
    "real_time_factor", "peak_memory",
)  # fmt: skip


@dataclass(frozen=True)
class Whisker:
    """A row with its places in per cent; `low` and `high` are None where nothing bounds it."""

    row: Row
    share: float
    at: float
    low: float | None
    high: float | None
    beyond: bool  # further than the scale reaches


@dataclass(frozen=True)
class Shares:
    """The whiskers and the scale they are on."""

    rows: tuple[Whisker, ...]
    limit: float  # the limit's place
    ticks: tuple[Tick, ...]


def quality(rows: Sequence[Row]) -> Shares | None:
    """Metrics of quality that have a limit; None where there is none."""
    return _drawn([row for row in rows if row.metric not in COSTS])


def budgets(rows: Sequence[Row]) -> Shares | None:
    """Costs that have a limit, and the gain over float16."""
    return _drawn([row for row in rows if row.metric in COSTS])


def share(row: Row, value: float | None) -> float:
    """0 loses nothing, 1 is the limit; NaN where no such scale can be made."""
    if value is None or row.limit is None or not math.isfinite(value):
        return math.nan
    if row.metric in COSTS:
        parts = (row.limit, value) if row.better == "higher" else (value, row.limit)
        return parts[0] / parts[1] if parts[1] > 0 else math.nan
    asked = Measurement(row.metric, value, row.unit, row.better, row.samples, ideal=row.ideal)
    best = ideal(asked, row.limit)
    return (value - best) / (row.limit - best) if row.limit != best else math.nan


def _drawn(rows: Sequence[Row]) -> Shares | None:
    known = [(row, share(row, row.value)) for row in rows]
    known = [(row, found) for row, found in known if math.isfinite(found)]
    known.sort(key=lambda pair: pair[0].verdict == "pass")  # what did not pass comes first
    if not known:
        return None
    ends = [found for _, found in known]
    ends += [end for row, _ in known for end in _ends(row)]
    top = next((room for room in ROOM if max(ends) <= room), ROOM[-1])
    low = -0.04 if min(ends) >= -0.04 else -0.25  # better than the source, by chance
    marks = (0.0, 0.25, 0.5, 0.75, 1.0) if top <= ROOM[0] else (0.0, 1.0, *_above(top))
    return Shares(
        tuple(_whisker(row, found, low, top) for row, found in known),
        place(1.0, low, top),
        tuple(Tick(place(mark, low, top), _named(mark)) for mark in marks),
    )


def _above(top: float) -> tuple[float, ...]:
    return tuple(float(n) for n in range(2, int(top) + 1))


def _named(mark: float) -> str:
    return "limit" if mark == 1.0 else f"{mark * 100:.0f} %" if mark < 1 else f"{mark:g} limits"


def _ends(row: Row) -> list[float]:
    found = [share(row, end) for end in (row.low, row.high)]
    return [end for end in found if math.isfinite(end)]


def _whisker(row: Row, found: float, low: float, top: float) -> Whisker:
    ends = [place(end, low, top) for end in _ends(row)]
    return Whisker(
        row, found, place(found, low, top), min(ends, default=None), max(ends, default=None),
        found > top,
    )  # fmt: skip
