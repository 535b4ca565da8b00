"""Where an interval lies to a limit: within it, beyond it, or on both sides of it."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgecompile.metrics import Measurement
from edgecompile.statistics.looks import FAIL_ERROR, PASS_ERROR


@dataclass(frozen=True)
class Errors:
    """What one look at one metric may spend: on passing wrongly, on failing wrongly."""

    passing: float = PASS_ERROR
    failing: float = FAIL_ERROR
    seed: int = 0


@dataclass(frozen=True)
class Weighed:
    """A metric's interval beside its limit.

    `low` and `high` are the bounds, each with its error rate; `needed` are the samples that would
    prove half of what the limit allows, 0 where these do, None where none can.
    """

    verdict: Literal["pass", "fail", "unproven"]
    low: float
    high: float
    needed: int | None
    why: str = ""


def weigh(measured: Measurement, limit: float, errors: Errors) -> Weighed:
    """The verdict of a metric that has evidence; its value is a number."""
    evidence, higher = measured.evidence, measured.better == "higher"
    assert evidence is not None
    sides = (errors.passing, errors.failing) if higher else (errors.failing, errors.passing)
    low, high = evidence.bounds(*sides, errors.seed)
    worse, best = (low, high) if higher else (high, low)
    half = (limit + ideal(measured, limit)) / 2
    needed = _needed(measured, worse, half)
    if not _beyond(worse, limit, higher):
        return Weighed("pass", low, high, needed)
    if _beyond(best, limit, higher):
        return Weighed("fail", low, high, needed)
    return Weighed("unproven", low, high, needed, _why(measured, low, high, worse, limit))


def ideal(measured: Measurement, limit: float) -> float:
    """The value that loses nothing: 1 of agreements and ratios, 0 of divergences and errors."""
    if measured.ideal is not None:
        return measured.ideal
    return 1.0 if measured.better == "higher" or measured.metric.endswith("_ratio") else 0.0


def _beyond(value: float, limit: float, higher: bool) -> bool:
    return not (value >= limit if higher else value <= limit)


def _needed(measured: Measurement, bound: float, limit: float) -> int | None:
    higher = measured.better == "higher"
    if _beyond(measured.value, limit, higher):
        return None
    if not _beyond(bound, limit, higher):
        return 0
    return _samples(measured, bound, limit)


def _samples(measured: Measurement, bound: float, limit: float) -> int | None:
    assert measured.evidence is not None
    times = measured.evidence.times(bound, measured.value, limit)
    return math.ceil(measured.samples * times) if times < 1e6 else None


def _why(measured: Measurement, low: float, high: float, bound: float, limit: float) -> str:
    more = _samples(measured, bound, limit)
    about = f"; about {max(more, measured.samples + 1):,} would decide" if more else ""
    return f"{measured.samples:,} samples leave [{low:.5g}, {high:.5g}]{about}"
