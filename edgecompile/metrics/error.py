"""Error of raw outputs, for modules that have no better metric of their own."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgecompile.metrics import Float64, Measurement, worst


def relative_error(source: ArrayLike, found: ArrayLike) -> float:
    """|found - source| / |source| (Frobenius norm) of one output; NaN where shapes differ."""
    a, b = np.asarray(source, np.float64), np.asarray(found, np.float64)
    if a.shape != b.shape:
        return float("nan")
    length = float(np.linalg.norm(a))
    distance = float(np.linalg.norm(b - a))
    return distance / length if length else (0.0 if distance == 0 else float("inf"))


def absolute_error(source: ArrayLike, found: ArrayLike) -> float:
    """Max |found - source| of one output; NaN where shapes differ."""
    a, b = np.asarray(source, np.float64), np.asarray(found, np.float64)
    if a.shape != b.shape:
        return float("nan")
    return float(np.abs(b - a).max(initial=0.0))


def measure(relative: Float64, absolute: Float64) -> tuple[Measurement, ...]:
    """`relative_error` and `absolute_error`, each the largest over the outputs compared."""
    count = len(relative)
    return (
        Measurement("relative_error", worst(relative, 0.0, "lower"), "", "lower", count),
        Measurement("absolute_error", worst(absolute, 0.0, "lower"), "", "lower", count),
    )
