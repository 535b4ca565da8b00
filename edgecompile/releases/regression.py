"""What a new release lost beyond an old one: rows of step `baseline`.

docs/decisions/0016-baselines.md has the rule.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecompile.checks.limits import COSTS
from edgecompile.errors import UsageError
from edgecompile.metrics import Measurement
from edgecompile.releases.baseline import JUDGED, Baseline, Cost, Header, Kept
from edgecompile.report import Row, Verdict, judged, unproven, weighed
from edgecompile.statistics.differences import Apart, Changed, Counted, Growth
from edgecompile.statistics.evidence import Evidence, Mean
from edgecompile.statistics.exact import Float64
from edgecompile.statistics.looks import FAIL_ERROR
from edgecompile.statistics.verdicts import Errors, ideal

STEP = "baseline"
LOST, GROWN = "_lost", "_grown"
TIMES = ("load_time", "latency", "first_token", "decode_speed", "real_time_factor")
ONE_RUN = ("load_time",)


@dataclass(frozen=True)
class Rule:
    """How much a release may lose beyond the last; shares, 0.1 is a tenth."""

    tolerance: float = 0.1  # of what the old release's limit allows
    size: float = 0.01
    time: float = 0.15
    memory: float = 0.10
    unpaired: bool = False  # other samples, or another source


def compare(old: Baseline, new: Baseline, rule: Rule) -> tuple[Row, ...]:
    """One row a metric and cost; raises UsageError where the two cannot be compared."""
    _refuse_others(old.header, new.header, rule)
    rows = [_own_check(new.header), *_quality(old, new, rule), *_costs(old, new, rule)]
    return tuple(rows)


def verdict_of(rows: Iterable[Row]) -> Verdict:
    """`fail` where any row fails, else `unproven` where any is, or none was judged, else `pass`."""
    found = {row.verdict for row in rows}
    if "fail" in found:
        return "fail"
    return "unproven" if "unproven" in found or "pass" not in found else "pass"


def _refuse_others(old: Header, new: Header, rule: Rule) -> None:
    """Two releases can be paired where source, text and seed are the same."""
    same = {
        "task": (old.task, new.task),
        "source's digest": (old.source_sha256[:16], new.source_sha256[:16]),
        "held-out text's digest": tuple(h.data.get("held_out", "")[:16] for h in (old, new)),
        "seed": (old.seed, new.seed),
    }
    for name, (one, other) in same.items():
        if one != other and (name == "task" or not rule.unpaired):
            raise UsageError(
                "baseline", f"its {name} is {one!r}, the new release's is {other!r}", "the same",
                "check both on the same --data from the same source"
                + ("" if name == "task" else ", or compare them as independent: --unpaired"),
            )  # fmt: skip


def _own_check(new: Header) -> Row:
    """Whether the new release's own check passed."""
    bad = float(new.verdict != "pass")
    detail = f"the new release's own check: {new.verdict}" if bad else ""
    return judged(STEP, Measurement("check_not_passed", bad, "", "lower", 1), 0.0, detail)


def _quality(old: Baseline, new: Baseline, rule: Rule) -> Iterator[Row]:
    there = _by_name(new.metrics)
    pairs = [(kept, there.get(name)) for name, kept in _by_name(old.metrics).items()]
    pairs = [(one, other) for one, other in pairs if one.step in JUDGED and one.kind != "point"]
    count = max(1, sum(one.limit is not None for one, _ in pairs))
    errors = Errors(failing=FAIL_ERROR / count, seed=old.header.seed)
    same = _same_files(old.header, new.header) and not rule.unpaired
    for one, other in pairs:
        if other is not None and other.kind == one.kind:
            yield _metric(one, other, rule, errors, same)
        elif one.limit is not None:
            yield unproven(STEP, one.metric + LOST, "the new release's check did not measure it")


def _by_name(metrics: Sequence[Kept]) -> dict[tuple[str, str, int], Kept]:
    """By step, metric and which of those of one name (texts, pictures) it is."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for kept in metrics:
        found[kept.step, kept.metric, seen[kept.step, kept.metric]] = kept
        seen[kept.step, kept.metric] += 1
    return found


def _same_files(old: Header, new: Header) -> bool:
    engines = (old.engine, old.engine_version) == (new.engine, new.engine_version)
    return engines and old.files_sha256 == new.files_sha256


def _metric(old: Kept, new: Kept, rule: Rule, errors: Errors, same_files: bool) -> Row:
    name = old.metric + LOST
    if not np.isfinite(new.values).all() or math.isnan(new.value):
        nan = Measurement(name, math.nan, new.unit, "lower", new.samples)
        return judged(STEP, nan, 0.0, "the new release's samples are no numbers")
    if not np.isfinite(old.values).all():
        return unproven(STEP, name, "the old release's samples are no numbers")
    if not rule.unpaired:
        paired = _paired(old, new)
        if paired is None:
            return unproven(STEP, name, "the two checks drew other samples")
        old, new = paired
    limit = _limit(old, rule)
    if limit is not None and same_files and np.array_equal(old.values, new.values):
        nothing = Measurement(name, 0.0, old.unit, "lower", new.samples)
        return judged(STEP, nothing, limit, "the same files and the same answers")
    return _row(name, old, new, limit, errors, rule)


def _row(
    name: str, old: Kept, new: Kept, limit: float | None, errors: Errors, rule: Rule
) -> Row:  # fmt: skip
    if old.kind == "tail":
        old, new = _beyond(old, new, rule)
        row = _weighed(name, old, new, limit, errors, rule)
        if row.verdict == "unproven":  # docs/decisions/0016: the check itself proves tails
            return replace(row, verdict="measured", detail="not shown to be worse")
        return row
    return _weighed(name, old, new, limit, errors, rule)


def _weighed(
    name: str, old: Kept, new: Kept, limit: float | None, errors: Errors, rule: Rule
) -> Row:  # fmt: skip
    evidence = _apart(old, new) if rule.unpaired else _difference(old, new)
    unit = "" if old.kind == "ratio" else old.unit
    measured = Measurement(name, _loss(old, new), unit, "lower", len(new.values), evidence)
    return weighed(STEP, measured, limit, errors)


def _paired(old: Kept, new: Kept) -> tuple[Kept, Kept] | None:
    """Both cut to the samples they share: a longer check begins with those of a shorter one.

    None where their documents differ; pseudo-values are of all samples of a check or of none.
    """
    count = min(len(old.values), len(new.values))
    if old.kind == "parts" and old.samples != new.samples:
        return None
    if not np.array_equal(old.groups[:count], new.groups[:count]):
        return None
    first, second = (replace(one, values=one.values[:count], groups=one.groups[:count])
                     for one in (old, new))  # fmt: skip
    return first, second


def _limit(old: Kept, rule: Rule) -> float | None:
    """The loss that is allowed, of a tail the share of samples; None where there is no limit."""
    if old.limit is None:
        return None
    return old.share if old.kind == "tail" else rule.tolerance * _allowance(old)


def _allowance(old: Kept) -> float:
    assert old.limit is not None
    measured = Measurement(
        old.metric, old.value, old.unit, old.better, old.samples, ideal=old.ideal
    )
    return abs(old.limit - ideal(measured, old.limit))


def _beyond(old: Kept, new: Kept, rule: Rule) -> tuple[Kept, Kept]:
    """Tails as shares: which samples lie beyond the old tail's end, moved by the tolerance."""
    sign = -1.0 if old.better == "higher" else 1.0
    room = rule.tolerance * _allowance(old) if old.limit is not None else 0.0
    values = sign * old.values
    end = float(np.quantile(values, 1 - old.share, method="higher")) + room
    first, second = (replace(one, kind="share", better="lower", unit="",
                             values=(sign * one.values > end).astype(float))
                     for one in (old, new))  # fmt: skip
    return first, second


def _loss(old: Kept, new: Kept) -> float:
    """Of the means of values, above 0 where the new one is worse."""
    one, other = float(np.mean(old.values)), float(np.mean(new.values))
    if old.kind == "ratio":
        return math.exp(min(other - one, 700.0)) - 1
    return (one - other if old.better == "higher" else other - one) / (old.per or math.nan)


def estimate(old: Kept, new: Kept, rule: Rule) -> tuple[float, float | None]:
    """A metric's loss and what is allowed, without an interval: no loss within it can fail."""
    limit = _limit(old, rule)
    sides = _beyond(old, new, rule) if old.kind == "tail" else (old, new)
    return _loss(*sides), limit


def _difference(old: Kept, new: Kept) -> Evidence:
    """Of the same samples."""
    lost: Float64 = old.values - new.values if old.better == "higher" else new.values - old.values
    if old.kind == "ratio":
        return Growth(lost, old.groups)
    if old.kind == "share":
        return Changed(lost, old.groups, old.per)
    return Counted(lost, old.groups, old.least) if old.least else Mean(lost, old.groups)


def _apart(old: Kept, new: Kept) -> Evidence:
    """Of samples that have nothing to do with each other."""
    sign = -1 if old.better == "higher" else 1
    return Apart(old.evidence, new.evidence, sign, old.kind == "ratio")


def _costs(old: Baseline, new: Baseline, rule: Rule) -> Iterator[Row]:
    there = {cost.metric: cost for cost in new.costs}
    why_time, why_memory = _elsewhere(old.header, new.header)
    for cost in sorted(old.costs, key=lambda one: COSTS.index(one.metric)):
        why = why_time if cost.metric in TIMES else "" if cost.metric == "size" else why_memory
        other = there.get(cost.metric)
        if other is not None:
            yield _drift(cost, other, rule, why)
        elif not why:
            yield unproven(STEP, cost.metric + GROWN, "the new release's check did not measure it")


def _elsewhere(old: Header, new: Header) -> tuple[str, str]:
    """Why times, and why memory, cannot be compared; empty where they can."""
    keys = ("cpu", "level", "device", "engine", "engine_version")
    for key in keys:
        one, other = getattr(old, key), getattr(new, key)
        if one != other or not one:
            what = "another machine" if key in keys[:3] else "another engine"
            why = f"measured, not judged: {what} ({one or 'unknown'}; {other or 'unknown'})"
            return why, why
    if old.busy or new.busy:
        which = " and ".join(["the old's"] * old.busy + ["the new's"] * new.busy)
        return f"measured, not judged: the machine was busy in {which} check", ""
    return "", ""


def _drift(old: Cost, new: Cost, rule: Rule, why: str) -> Row:
    """By how much a cost grew, or a speed fell."""
    higher = old.better == "higher"
    ratio = new.value / old.value if old.value else math.nan
    grown = 1 - ratio if higher else ratio - 1
    measured = Measurement(old.metric + (LOST if higher else GROWN), grown, "", "lower", 1)
    detail = f"{old.value:.5g} to {new.value:.5g} {old.unit}".strip()
    if old.metric in ONE_RUN:
        why = why or "measured, not judged: one run"
    if why and not math.isnan(grown):
        return judged(STEP, measured, None, f"{detail}; {why}")
    limit = rule.time if old.metric in TIMES else rule.size if old.metric == "size" else rule.memory
    apart = new.high < old.low if higher else new.low > old.high
    if old.metric in TIMES and grown > limit and not apart:
        spread = "measured, not judged: within the spread of its runs"
        return judged(STEP, measured, None, f"{detail}; {spread}")
    return judged(STEP, measured, limit, detail)
