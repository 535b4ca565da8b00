"""Where a metric went wrong: the first stage that an exact row names, else the largest step."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgecompile.report import CheckReport, Row, StageValue
from edgecompile.report.words import number

# What a step compares says what it stands for, whatever the numbers.
BY_STEP = {"sealed": "sealed", "tokenizer": "tokenizer", "cost": "cost", "device": "device",
           "engine": "runtime"}  # fmt: skip
BY_METRIC = {
    "decode_gap": "runtime", "decode_kl": "runtime", "sampler_differing": "runtime",
    "written_differing": "runtime",
    "picture_error": "preprocessing", "audio_error": "preprocessing",
}  # fmt: skip
KEPT, BEFORE, DIRECT = "kept", "kept_", "export_"
SHIPPED = ("quantized", "learned", "graph", "runtime")  # what follows the model that was exported
# What is wrong anywhere moves these; alone they tell of the runtime.
SEE_ALL = ("golden_differing", "alone_error")


def culprit(report: CheckReport) -> str:
    """The stage at fault by the rows that did not pass; empty where all did.

    Exact rows come first, as the check runs them: whatever they find moves all that follows.
    """
    bad = [row for row in report.rows if row.verdict == "fail"]
    bad = bad or [row for row in report.rows if row.open]
    others = [row for row in bad if row.metric not in SEE_ALL]
    if bad and not others:
        return "runtime"
    bad = others
    for row in bad:
        if row.step in BY_STEP or row.metric in BY_METRIC:
            return BY_METRIC.get(row.metric) or BY_STEP[row.step]
    return _by_numbers(bad, report.stages) if bad else ""


def _by_numbers(bad: Sequence[Row], stages: Sequence[StageValue]) -> str:
    """`kept_` rows are measured against the model that came in, others against what was exported.

    Where those alone fail, quantizing and the engine kept within their own limits.
    """
    came_in = [one for one in stages if one.metric.startswith(BEFORE)]
    exported = [one for one in stages if not one.metric.startswith(BEFORE)]
    if any(row.metric.startswith(DIRECT) for row in bad):
        return "graph" if _moved(exported) != "runtime" else "runtime"
    of_kept = [row.step == KEPT for row in bad]
    if all(of_kept):
        return _moved([one for one in came_in if one.stage.split()[0] not in SHIPPED]) or "pruned"
    return (_moved(came_in) if any(of_kept) else "") or _moved(exported) or "quantized"


def _moved(stages: Sequence[StageValue]) -> str:
    """The stage after which the loss grew most; NaN is the largest loss."""
    steps: dict[str, float] = {}
    before: dict[str, float] = {}
    for one in stages:
        loss = math.inf if math.isnan(one.value) else _loss(one)
        grown = loss - before.get(one.metric, 0.0) if loss < math.inf else math.inf
        if before.get(one.metric) != math.inf:
            steps[one.stage] = max(steps.get(one.stage, 0.0), grown)
        before[one.metric] = loss
    return max(steps, key=lambda stage: steps[stage]) if steps else ""


def _loss(one: StageValue) -> float:
    """Cosines and agreements lose from 1, divergences and errors from 0."""
    from_one = one.metric.removeprefix(BEFORE).startswith(("cosine", "class", "top", "accuracy"))
    return abs(1 - one.value) if from_one else abs(one.value)


def way(report: CheckReport) -> Iterator[tuple[str, str]]:
    """Each metric with its values after one stage and the next, in their order."""
    for metric in dict.fromkeys(one.metric for one in report.stages):
        found = [one for one in report.stages if one.metric == metric]
        yield metric, " → ".join(f"{one.stage} {number(one.value, 4)}" for one in found)
