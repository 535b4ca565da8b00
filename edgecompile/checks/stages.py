"""What each stage made of the same held-out inputs: source, codes in torch, graph, runtime.

A check is not told where a fault is. These rows are measured on the inputs that the export is
compared on, each against the source, so that a report can say where a metric moved. Where passes
made another model of the one that came in, all stages are measured against that one too.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.earlier import ROUNDED, Chain, Earlier
from edgecompile.checks.limits import KEPT
from edgecompile.metrics import Measurement, cosine, error
from edgecompile.report import Row, StageValue, judged

STEP = "stages"
# In the order of a build, after those of earlier.MADE. `graph` is the engine given what the
# source's own tokenizer or processor makes of an input, `runtime` all that ships.
QUANTIZED, GRAPH, RUNTIME = ROUNDED, "graph", "runtime"

Answers = TypeVar("Answers")


def through(
    chain: Chain | None, source: Answers, sides: Mapping[str, Answers],
    ask: Callable[[Earlier], Answers], measure: Callable[[Answers, Answers], Measurement],
) -> Iterator[Row]:  # fmt: skip
    """Each side's answers by stage against the source's, then all against the model that came in.

    `ask` asks the models that are not the source. The second metric's name has `kept_` before it,
    as in the step that judges it.
    """
    if chain is not None and QUANTIZED in sides:
        chosen = {} if chain.rounded is None else {QUANTIZED: ask(chain.rounded)}
        others = {stage: found for stage, found in sides.items() if stage != QUANTIZED}
        sides = {**chosen, chain.codes: sides[QUANTIZED], **others}
    for stage, measured in _each(source, sides, measure):
        yield of(stage, measured)
    if chain is None or chain.origin is None:
        return
    came_in = ask(chain.origin)
    for one in chain.between:
        yield _kept(one.stage, measure(came_in, ask(one)))
    for stage, measured in _each(came_in, {chain.last: source, **sides}, measure):
        yield _kept(stage, measured)


def _each(
    before: Answers, sides: Mapping[str, Answers],
    measure: Callable[[Answers, Answers], Measurement],
) -> Iterator[tuple[str, Measurement]]:  # fmt: skip
    """Each side measured; one that is the very same as that before it is not measured again."""
    last: tuple[Answers, Measurement] | None = None
    for stage, found in sides.items():
        if last is None or last[0] is not found:
            last = found, measure(before, found)
        yield stage, last[1]


def _kept(stage: str, measured: Measurement) -> Row:
    return of(stage, replace(measured, metric=KEPT + measured.metric))


def of(stage: str, measured: Measurement) -> Row:
    """The row of one stage: measured, never judged."""
    return judged(STEP, replace(measured, evidence=None), None, stage)


def values(rows: Iterable[Row]) -> tuple[StageValue, ...]:
    """Those among the rows that are of stages, as a report has them."""
    return tuple(StageValue(row.detail, row.metric, row.value, row.samples)
                 for row in rows if row.step == STEP)  # fmt: skip


def alike(source: NDArray[np.float32], found: NDArray[np.float32]) -> Measurement:
    """`cosine_mean` of rows [n, width] with the source's."""
    return cosine.measure(cosine.cosines(source, found))[0]


def erring(source: NDArray[Any], found: NDArray[Any]) -> Measurement:
    """`relative_error` of all rows with the source's."""
    value = error.relative_error(source, found)
    return Measurement("relative_error", value, "", "lower", len(source))
