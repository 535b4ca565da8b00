"""Metrics of the user's own: found by the recipe's word, asked about each held-out sample.

Their code runs only where the user's recipe or command line names it, never because a bundle does
(docs/own-metrics.md).
"""
from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks import Limits
from edgecompile.checks.comparison import QUALITY, Comparison
from edgecompile.checks.limits import COSTS, EXPORT, KEPT, MEASURED, REQUIRED, TABLE
from edgecompile.entry import imported
from edgecompile.errors import UsageError
from edgecompile.metrics import Float64
from edgecompile.metrics.logits import TokenRows
from edgecompile.metrics.own import OwnMetric, measure
from edgecompile.recipe import MetricSpec, Recipe
from edgecompile.report import Row, unproven
from edgecompile.report.words import MEANING

EXPECTED = "a function of one sample, as file.py:function beside the recipe or package.module:..."
ALLOWED = "own-metrics"  # lets a bundle pass without the metrics of its build's recipe
MOST = 256  # metrics that a manifest's word is taken for
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
TAKEN = {*TABLE, *EXPORT, *COSTS, *MEASURED, *MEANING, *(m for ms in REQUIRED.values() for m in ms)}


class OwnMetricError(UsageError):
    """The user's function raised, or gave what is no number (exit 2)."""


@dataclass(frozen=True)
class Sample:
    """What a user's function gets: one held-out sample and both answers, of the task's kind."""

    number: int  # of the held-out samples, from 0
    source: Any
    bundle: Any
    text: str = ""
    label: str | None = None
    names: tuple[str, ...] = ()  # of the classes or tags
    file: Path | None = None  # of a picture or a sound


def of_recipe(recipe: Recipe) -> tuple[OwnMetric, ...]:
    """The recipe's metrics with their functions; UsageError (2) for what cannot be one."""
    return tuple(
        _metric(name, spec, recipe.folder, f"recipe {recipe.name} [check.metrics.{name}]")
        for name, spec in recipe.check.metrics.items()
    )


def _metric(name: str, spec: MetricSpec, folder: Path, where: str) -> OwnMetric:
    if not _NAME.fullmatch(name) or name.startswith((KEPT, "export_")):
        found = f"{name!r} is no name of a metric"
        raise UsageError(where, found, f"a-z, 0-9 and _, not beginning with {KEPT} or export_")
    if name in TAKEN:
        raise UsageError(where, f"{name} is one of the check's own metrics", "another name")
    best = spec.ideal if spec.ideal is not None else float(spec.direction == "higher")
    sign = 1 if spec.direction == "higher" else -1
    if not math.isfinite(best):
        raise UsageError(where, f"ideal = {best}", "a finite number")
    if spec.limit is not None and not sign * spec.limit < sign * best:
        side = "below" if sign > 0 else "above"
        raise UsageError(
            where, f"limit = {spec.limit:g} is not {side} {best:g}, the value that loses nothing",
            f"a limit {side} it", "samples never prove that nothing is lost; where another value "
            f"than {best:g} loses nothing, write ideal = ...",
        )  # fmt: skip
    place, colon, function = spec.function.rpartition(":")
    if not colon or not place or not function:
        raise UsageError(where, f"function = {spec.function!r}", EXPECTED)
    shown = f"{Path(place).name if place.endswith('.py') else place}:{function}"
    limit = None if spec.limit is None else float(spec.limit)
    return OwnMetric(name, shown, spec.direction, limit, float(best), spec.unit,
                     _function(_beside(folder, place), function, where))  # fmt: skip


def _beside(folder: Path, place: str) -> str:
    """The file beside the recipe (`my.py`, or `my` as other entry points of recipes), else a name.

    What --set names without a recipe's file is looked for in the current folder.
    """
    named = folder / (place if place.endswith(".py") else f"{place}.py")
    return str(named) if place.endswith(".py") or named.is_file() else place


def _function(place: str, name: str, where: str) -> Callable[[Any], Any]:
    try:
        found = getattr(imported(place), name)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise UsageError(where, f"{place}:{name}: {_said(error, place)}", EXPECTED) from error
    if not callable(found):
        raise UsageError(where, f"{name} in {place} is a {type(found).__name__}", EXPECTED)
    function: Callable[[Any], Any] = found
    return function


def _said(error: BaseException, place: str = "") -> str:
    """The error with the line of the user's file; no traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent.parent)
    theirs = [f for f in frames if not f.filename.startswith((ours, "<frozen"))]
    at = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    missing = isinstance(error, OSError) and place.endswith(".py") and not Path(place).is_file()
    return "no such file" if missing else f"{type(error).__name__}: {error}{at}"


# asking


def rows(comparison: Comparison, samples: Iterable[Sample]) -> Iterator[Row]:
    """A row a metric; what an earlier look asked is not asked again."""
    if not comparison.options.metrics:
        return
    asked = list(samples)
    for metric in comparison.options.metrics:
        if not asked:
            yield unproven(QUALITY, metric.name, f"{metric.place}: no held-out sample")
            continue
        values = comparison.each(f"measure {metric.name}", asked, _key, _runner(metric))
        if not sum(map(len, values)):
            yield unproven(QUALITY, metric.name, f"{metric.place} gave no number for any sample")
            continue
        row = comparison.judge(QUALITY, measure(metric, values))
        bad = next((one for one, found in zip(asked, values, strict=True)
                    if not np.isfinite(found).all()), None)  # fmt: skip
        why = "" if bad is None else f"no finite number for held-out sample {bad.number}"
        detail = "; ".join(filter(None, (metric.place, why, row.detail)))
        yield replace(row, detail=detail)


def unmeasured(comparison: Comparison, why: str) -> Iterator[Row]:
    """An unproven row a metric: never a pass."""
    for metric in comparison.options.metrics:
        yield unproven(QUALITY, metric.name, f"{metric.place}: {why}")


def never_measured(
    manifest: Mapping[str, Any], options: Limits, there: Collection[str]
) -> Iterator[Row]:
    """An unproven row for each metric of the recipe, or of the bundle's build, that no step gave.

    What a bundle names is not run: it may be a stranger's.
    """
    for metric in options.metrics:
        if metric.name not in there:
            yield unproven(QUALITY, metric.name, f"{metric.place}: it was not measured")
    ours = {metric.name for metric in options.metrics}
    for name, place in recorded(manifest).items():
        if name in ours:
            continue
        why = f"{place}: a metric of the recipe that it was built by; give --recipe FILE"
        row = unproven(QUALITY, name, why)
        if ALLOWED in options.allow:
            row = replace(row, verdict="measured", detail=f"{place}: not run, allowed by name")
        yield row


def recorded(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The build's own metrics and their functions, as a manifest names them, which may say all."""
    found = manifest.get("metrics")
    if not isinstance(found, Mapping):
        return {}
    return {
        name if _NAME.fullmatch(name) else "own_metric":
        "".join(filter(str.isprintable, str(place)[:200]))
        for name, place in list(found.items())[:MOST]
    }  # fmt: skip


def _key(sample: Sample) -> tuple[int, bool]:
    return sample.number, sample.file is not None


def _runner(metric: OwnMetric) -> Callable[[Sequence[Sample]], list[Float64]]:
    return lambda part: [_numbers(metric, sample) for sample in part]


def _numbers(metric: OwnMetric, sample: Sample) -> Float64:
    """What the function gives for a sample, as float64 [numbers]."""
    where = f"{metric.place} ({metric.name}), held-out sample {sample.number}"
    own = replace(sample, source=_copied(sample.source), bundle=_copied(sample.bundle))
    try:
        found = metric.function(own)
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise OwnMetricError(where, _said(error), "a number, or a list of numbers") from error
    try:
        if isinstance(found, str | bytes | dict) or np.iscomplexobj(found):
            raise TypeError
        values = np.atleast_1d(np.asarray(found, np.float64))
    except (Exception, SystemExit) as error:
        raise OwnMetricError(
            where, f"it gave {found!r:.80}", "a number, or a list of numbers"
        ) from error
    if values.ndim != 1 or found is None:
        raise OwnMetricError(where, f"it gave {found!r:.80}", "a number, or a list of numbers")
    return values


def _copied(answer: Any) -> Any:
    """An answer that the user's function may change."""
    if isinstance(answer, np.ndarray):
        return answer.copy()
    if isinstance(answer, Mapping):
        return {name: _copied(value) for name, value in answer.items()}
    return [_copied(value) for value in answer] if isinstance(answer, list) else answer


def paired(
    documents: Sequence[Any], source: Sequence[Any] | NDArray[Any],
    bundle: Sequence[Any] | NDArray[Any], names: Sequence[str] = (),
) -> Iterator[Sample]:  # fmt: skip
    """Samples of documents with both answers to each."""
    for number, (document, one, other) in enumerate(zip(documents, source, bundle, strict=True)):
        shot = document.picture or document.recording
        text = document.text if shot is None else ""
        file = None if shot is None else shot.file
        yield Sample(number, one, other, text, document.label, tuple(names), file)


def of_tokens(answers: Sequence[TokenRows], texts: Sequence[str]) -> Iterator[Sample]:
    """Samples of log probabilities [tokens] of a text's own tokens, by both sides."""
    for number, (rows_, text) in enumerate(zip(answers, texts, strict=True)):
        yield Sample(number, -rows_.source, -rows_.found, text)
