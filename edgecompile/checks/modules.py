"""Modules of a user's own: the error of their outputs on example inputs and changes of them."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.metrics import error
from edgecompile.report import Row


def rows(comparison: Comparison) -> Iterator[Row]:
    """Relative and absolute error on the example inputs and seeded changes of them."""
    inputs = list(perturbed(comparison.reference.example_inputs, comparison.options.seed))
    for step, prefix, scope in (
        (QUALITY, "", nullcontext()),
        (EXPORT, "export_", comparison.same_codes()),
    ):
        relative, absolute = [], []
        with scope:
            for arrays in inputs:
                source = list(comparison.reference.run(**arrays).values())
                found = list(comparison.worker.run(**arrays).values())
                relative.append(_all(error.relative_error, source, found))
                absolute.append(_all(error.absolute_error, source, found))
        for measured in error.measure(np.array(relative), np.array(absolute)):
            yield comparison.judge(step, replace(measured, metric=prefix + measured.metric))


def _all(measure: Any, source: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    """The largest error over the outputs; NaN where their numbers differ."""
    if len(source) != len(found):
        return float("nan")
    return float(np.max([measure(a, b) for a, b in zip(source, found, strict=True)]))


def perturbed(
    examples: Mapping[str, NDArray[Any]], seed: int, count: int = 8
) -> Iterator[dict[str, NDArray[Any]]]:
    """The example inputs, then `count` - 1 times floats with noise of a tenth of their spread.

    Integers and booleans are kept, but shuffled along the first axis: they may be indices.
    """
    yield dict(examples)
    rng = np.random.default_rng(seed)
    for _ in range(count - 1):
        changed = {}
        for name, array in examples.items():
            if np.issubdtype(array.dtype, np.floating):
                noise = rng.normal(size=array.shape) * (0.1 * (array.std() or 1.0))
                changed[name] = (array + noise).astype(array.dtype)
            else:
                changed[name] = rng.permutation(array) if array.ndim else array
        yield changed
