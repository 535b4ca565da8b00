"""Cosine similarity of each text's embedding with the source's."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgecompile.metrics import Float64, Measurement, each_alone, mean, worst
from edgecompile.statistics.evidence import Mean, Tail


def cosines(source: ArrayLike, found: ArrayLike) -> Float64:
    """<a, b> / (|a| |b|) of each pair of rows [n, dim] -> [n]; NaN where a row has length 0."""
    a, b = np.asarray(source, np.float64), np.asarray(found, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine: Float64 = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosine


def measure(values: Float64) -> tuple[Measurement, ...]:
    """`cosine_mean`, `cosine_p1` (1 % of the texts are worse) and `cosine_min`."""
    count, alone = len(values), each_alone(values)
    tail = Tail(values, alone, 0.01, "higher")
    return (
        Measurement("cosine_mean", mean(values), "", "higher", count, Mean(values, alone)),
        Measurement("cosine_p1", worst(values, 0.01, "higher"), "", "higher", count, tail),
        Measurement("cosine_min", worst(values, 0.0, "higher"), "", "higher", count),
    )
