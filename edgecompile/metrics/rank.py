"""Do texts keep their order of similarity? What retrieval needs of an embedding."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecompile.metrics import Float64, Measurement
from edgecompile.statistics.evidence import Function, Statistic


def similarities(embeddings: ArrayLike) -> Float64:
    """Cosine of every pair i < j of rows [n, dim] -> [n (n - 1) / 2]."""
    rows = np.asarray(embeddings, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs: Float64 = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return pairs


def ranks(values: Float64) -> Float64:
    """Ranks from 0, ties given their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Float64 = (ends - (counts + 1) / 2)[inverse]
    return middle


def spearman(source: Float64, found: Float64) -> float:
    """Pearson's correlation of the ranks; NaN where a value is NaN or all are equal."""
    if np.isnan(source).any() or np.isnan(found).any() or len(source) < 2:
        return float("nan")
    a, b = ranks(source), ranks(found)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float("nan")


def measure(source: ArrayLike, found: ArrayLike) -> Measurement:
    """`rank_correlation` over all pairs of texts, of embeddings [n, dim]; texts are its samples."""
    a, b = np.asarray(source, np.float64), np.asarray(found, np.float64)

    def correlation(kept: NDArray[np.intp]) -> float:
        return spearman(similarities(a[kept]), similarities(b[kept]))

    return _measured(correlation, len(a))


def of_scores(source: Float64, found: Float64) -> Measurement:
    """`rank_correlation` of scores [n]."""
    return _measured(lambda kept: spearman(source[kept], found[kept]), len(source))


def _measured(correlation: Statistic, count: int) -> Measurement:
    alone = np.arange(count)
    evidence = Function(np.zeros(count), alone, correlation, "fisher")
    return Measurement("rank_correlation", correlation(alone), "", "higher", count, evidence)
