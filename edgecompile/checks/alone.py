"""Is an input answered the same alone as among others, and on as many threads as usual?"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.comparison import EXPORT, Comparison
from edgecompile.metrics import Measurement, error
from edgecompile.report import Row, exact
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.worker_client import Worker

FEW = 4


def rows(
    comparison: Comparison, texts: Sequence[str], among: NDArray[Any],
    ask: Callable[[Sequence[str]], NDArray[Any]],
) -> Iterator[Row]:  # fmt: skip
    """`alone_error`: the relative error of answers [n, width] to single texts to those `among`."""
    few = texts[:FEW]
    values = [error.relative_error(row, ask([text])[0]) for text, row in zip(few, among)]  # noqa: B905
    if values:
        measured = Measurement("alone_error", float(np.max(values)), "", "lower", len(values))
        yield comparison.judge(EXPORT, measured)


def golden_rows(
    open_: Callable[[int | None], Worker], info: Manifest, threads: int | None
) -> Iterator[Row]:
    """The shipped golden inputs on one thread, as they were made, and on as many as usual."""
    if info.golden is None:
        return
    wrong, asked = [], 0
    for count in (1, threads):
        with open_(count) as worker:
            results = worker.self_test()
        asked += len(results)
        wrong += [f"{_said(one)} on {count or 'the usual number of'} threads"
                  for one in results if not one["passed"]]  # fmt: skip
    yield exact(EXPORT, "golden_differing", wrong, asked)


def _said(result: Mapping[str, Any]) -> str:
    return str(result["fault"]) or f"{result['deviation']:.3g} over {result['tolerance']:.3g}"
