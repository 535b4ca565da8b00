"""Modules of a user's own: the error of their outputs on example inputs and changes of them."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks import own, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.metrics import Measurement, error
from edgecompile.report import Row

Outputs = list[NDArray[Any]]


def rows(comparison: Comparison) -> Iterator[Row]:
    """Relative and absolute error on the example inputs and seeded changes of them."""
    inputs = list(perturbed(comparison.reference.example_inputs, comparison.options.seed))
    found = [list(comparison.worker.run(**arrays).values()) for arrays in inputs]
    source = [list(comparison.reference.run(**arrays).values()) for arrays in inputs]
    with comparison.same_codes():
        codes = [list(comparison.reference.run(**arrays).values()) for arrays in inputs]
    for measured in _errors(source, found):
        yield comparison.judge(QUALITY, measured)
    yield from own.rows(comparison, (
        own.Sample(number, *sides) for number, sides in enumerate(zip(source, found, strict=True))
    ))  # fmt: skip
    for measured in _errors(codes, found):
        yield comparison.judge(EXPORT, replace(measured, metric=f"export_{measured.metric}"))
    yield stages.of(stages.QUANTIZED, _errors(source, codes)[0])
    yield stages.of(stages.RUNTIME, _errors(source, found)[0])


def _errors(source: list[Outputs], found: list[Outputs]) -> tuple[Measurement, ...]:
    """Relative and absolute error over all inputs."""
    pairs = list(zip(source, found, strict=True))
    relative = [_all(error.relative_error, *pair) for pair in pairs]
    return error.measure(np.array(relative), np.array([_all(error.absolute_error, *pair)
                                                       for pair in pairs]))  # fmt: skip


def _all(measure: Any, source: Outputs, found: Outputs) -> float:
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
