"""The few figures that people ask for first."""
from __future__ import annotations

from dataclasses import dataclass

from edgecompile.report import CheckReport, Row
from edgecompile.report.plots.frontier import quality_row
from edgecompile.report.words import interval, limited, meaning, number, valued


@dataclass(frozen=True)
class Figure:
    """A large figure, what it is, and a line below it."""

    name: str
    value: str
    below: str
    verdict: str


def figures(report: CheckReport) -> list[Figure]:
    """Size, quality, speed and memory: those that were measured."""
    rows: dict[str, Row] = {}
    for row in report.rows:
        rows.setdefault(row.metric, row)
    found = (_size(rows), _quality(report), _speed(rows), _memory(rows))
    return [figure for figure in found if figure is not None]


def _size(rows: dict[str, Row]) -> Figure | None:
    size, gain = rows.get("size"), rows.get("size_vs_float16")
    if size is None:
        return None
    below = f"model files {number(gain.value, 3)} of float16's" if gain else ""
    worst = gain.verdict if gain is not None and size.verdict != "fail" else size.verdict
    return Figure("size", valued(size, 3), below, worst)


def _quality(report: CheckReport) -> Figure | None:
    row = quality_row(report)
    if row is None:
        return None
    between = interval(row)
    below = ", ".join(filter(None, (between, f"limit {limited(row)}" if row.limit else "")))
    return Figure(row.metric, valued(row, 4), below or meaning(row.metric), row.verdict)


def _speed(rows: dict[str, Row]) -> Figure | None:
    rate, first = rows.get("decode_speed"), rows.get("first_token")
    if rate is not None:
        below = f"first token after {valued(first, 3)}" if first else ""
        return Figure("speed", valued(rate, 3), below, rate.verdict)
    row = rows.get("latency")
    if row is None:
        return None
    below = ", ".join(filter(None, (f"median of {row.samples} calls", row.detail)))
    return Figure("latency", valued(row, 3), below, row.verdict)


def _memory(rows: dict[str, Row]) -> Figure | None:
    row, load = rows.get("peak_memory"), rows.get("load_time")
    if row is None:
        return None
    below = f"opens in {valued(load, 3)}" if load else ""
    return Figure("peak memory", valued(row, 3), below, row.verdict)
