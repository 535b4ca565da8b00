"""What a search by vectors finds: the source's own nearest, and the texts written for pictures."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecompile.metrics import Float64, Measurement, mean

NEAREST = 10
DEPTHS = (1, 5, 10)  # at which image-text retrieval is reported


def order(similarities: ArrayLike) -> NDArray[np.int64]:
    """Candidates of each query, the most similar first, of [queries, candidates]; ties in order."""
    return np.argsort(-np.asarray(similarities, np.float64), axis=1, kind="stable")


def shared_nearest(source: ArrayLike, found: ArrayLike, count: int = NEAREST) -> Float64:
    """For each query the share of the source's `count` nearest that are so again; NaN kept.

    Recall as ANN-Benchmarks has it (Aumueller et al. 2018), of [queries, candidates].
    """
    a, b = order(source)[:, :count], order(found)[:, :count]
    same: Float64 = (a[:, :, None] == b[:, None, :]).any(2).mean(1)
    same[np.isnan(np.asarray(source)).any(1) | np.isnan(np.asarray(found)).any(1)] = np.nan
    return same


def measure(source: ArrayLike, found: ArrayLike) -> Measurement:
    """`recall_at_10` of similarities [pictures, texts], texts by pictures and pictures by texts."""
    a, b = np.asarray(source), np.asarray(found)
    both = np.concatenate([shared_nearest(a, b), shared_nearest(a.T, b.T)])
    return Measurement("recall_at_10", mean(both), "", "higher", len(both))


def mean_recall(similarities: ArrayLike, owners: ArrayLike) -> float:
    """The mean of recall at 1, 5 and 10 in both directions; NaN where a similarity is.

    `owners` int [texts] is the picture that each was written for; a picture counts as found
    when one of its texts is among the nearest (Karpathy and Fei-Fei 2015).
    """
    values, of = np.asarray(similarities, np.float64), np.asarray(owners)
    if np.isnan(values).any():
        return float("nan")
    by_text = order(values.T) == of[:, None]
    by_picture = of[order(values)] == np.arange(len(values))[:, None]
    hits = [side[:, :depth].any(1).mean() for side in (by_text, by_picture) for depth in DEPTHS]
    return float(np.mean(hits))


def of_captions(
    source: ArrayLike, found: ArrayLike, owners: ArrayLike
) -> tuple[Measurement, ...]:
    """`retrieval_recall_ratio` to the source's, and both; of similarities [pictures, texts]."""
    one, other = mean_recall(source, owners), mean_recall(found, owners)
    count, ratio = len(np.asarray(owners)), other / one if one else float("nan")
    return (
        Measurement("retrieval_recall_ratio", ratio, "", "higher", count),
        Measurement("retrieval_recall", other, "", "higher", count),
        Measurement("retrieval_recall_source", one, "", "higher", count),
    )
