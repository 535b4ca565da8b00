"""More samples where those at hand leave a metric open: at looks planned before the first."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from edgecompile.checks.comparison import Comparison
from edgecompile.report import Row
from edgecompile.statistics.looks import planned
from edgecompile.statistics.verdicts import Errors

Measure = Callable[[Comparison], Iterable[Row]]


def drawn(
    comparison: Comparison, unit: str, available: int, measure: Measure
) -> Iterator[Row]:
    """The rows of the last look: the first at which no metric is open any more.

    `unit` is the option that says how much is asked for, texts, tokens or answers; `available` are
    all that there are.
    """
    options = comparison.options
    plan = planned(getattr(options, unit), available, comparison.sharing)
    found: list[Row] = []
    for look, size in enumerate(plan.sizes):
        errors = Errors(plan.pass_error(look), plan.fail_error(look), options.seed)
        asked = dataclasses.replace(options, **{unit: size})  # type: ignore[arg-type]
        found = list(measure(dataclasses.replace(comparison, options=asked, errors=errors)))
        if not any(row.open for row in found):
            break
    yield from found
