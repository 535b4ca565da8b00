"""What each stage made of the same held-out inputs: source, codes in torch, graph, runtime.

A check is not told where a fault is. These rows are measured on the inputs that the export is
compared on, each against the source, so that a report can say where a metric moved.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecompile.metrics import Measurement, cosine, error
from edgecompile.report import Row, judged

STEP = "stages"
# In the order of a build. `graph` is the engine given what the source's own tokenizer or processor
# makes of an input, `runtime` all that ships.
PRUNED, DISTILLED, QUANTIZED, GRAPH, RUNTIME = STAGES = (
    "pruned", "distilled", "quantized", "graph", "runtime",
)  # fmt: skip


def of(stage: str, measured: Measurement) -> Row:
    """The row of one stage: measured, never judged."""
    return judged(STEP, replace(measured, evidence=None), None, stage)


def alike(stage: str, source: NDArray[np.float32], found: NDArray[np.float32]) -> Row:
    """`cosine_mean` of rows [n, width] with the source's."""
    return of(stage, cosine.measure(cosine.cosines(source, found))[0])


def erring(stage: str, source: ArrayLike, found: ArrayLike) -> Row:
    """`relative_error` of all rows with the source's."""
    value = error.relative_error(source, found)
    return of(stage, Measurement("relative_error", value, "", "lower", len(np.asarray(source))))
