"""Is an input answered the same alone as among others, and on as many threads as usual?"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.comparison import EXPORT, Comparison
from edgecompile.errors import UnsupportedError
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


def golden_rows(worker: Worker, info: Manifest) -> Iterator[Row]:
    """The shipped golden inputs, answered on one thread when they were made."""
    if info.golden is None:
        return
    try:
        results = worker.self_test()
    except UnsupportedError:
        return
    wrong = [one["fault"] or f"{one['deviation']:.3g} over {one['tolerance']:.3g}"
             for one in results if not one["passed"]]  # fmt: skip
    yield exact("export", "golden_differing", wrong, len(results))
