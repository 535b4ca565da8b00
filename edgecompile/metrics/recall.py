"""What a search by vectors finds: the source's own nearest, and the texts written for pictures."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecompile.metrics import Float64, Measurement, each_alone, mean
from edgecompile.statistics.evidence import Evidence, Function, Mean

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
    evidence = Mean(both, each_alone(both))
    return Measurement("recall_at_10", mean(both), "", "higher", len(both), evidence)


def of_texts(source: ArrayLike, found: ArrayLike) -> Measurement:
    """`recall_at_10` of embeddings [n, dim]: each text's nearest among the others."""
    sides = []
    for rows in (np.asarray(source, np.float64), np.asarray(found, np.float64)):
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        similar = unit @ unit.T
        similar[np.diag_indices(len(similar))] = -2.0  # below any cosine
        sides.append(similar)
    values = shared_nearest(*sides)
    evidence = Mean(values, each_alone(values))
    return Measurement("recall_at_10", mean(values), "", "higher", len(values), evidence)


def mean_recall(similarities: ArrayLike, owners: ArrayLike) -> float:
    """The mean of recall at 1, 5 and 10 in both directions; NaN where a similarity is.

    `owners` int [texts] is the picture that each was written for; a picture counts as found
    when one of its texts is among the nearest (Karpathy and Fei-Fei 2015).
    """
    if np.isnan(np.asarray(similarities, np.float64)).any():
        return float("nan")
    return float(np.mean([side.mean() for side in _hits(similarities, owners)]))


def _hits(similarities: ArrayLike, owners: ArrayLike) -> tuple[Float64, Float64]:
    """Of each text and of each picture, the share of DEPTHS at which it is found."""
    values, of = np.asarray(similarities, np.float64), np.asarray(owners)
    by_text = order(values.T) == of[:, None]
    by_picture = of[order(values)] == np.arange(len(values))[:, None]
    sides = [np.mean([side[:, :depth].any(1) for depth in DEPTHS], axis=0)
             for side in (by_text, by_picture)]  # fmt: skip
    return sides[0], sides[1]


def of_captions(
    source: ArrayLike, found: ArrayLike, owners: ArrayLike
) -> tuple[Measurement, ...]:
    """`retrieval_recall_ratio` to the source's, and both; of similarities [pictures, texts]."""
    one, other = mean_recall(source, owners), mean_recall(found, owners)
    count, ratio = len(np.asarray(owners)), other / one if one else float("nan")
    evidence = _of_pictures(_hits(source, owners), _hits(found, owners), np.asarray(owners))
    return (
        Measurement("retrieval_recall_ratio", ratio, "", "higher", count, evidence),
        Measurement("retrieval_recall", other, "", "higher", count),
        Measurement("retrieval_recall_source", one, "", "higher", count),
    )


Hits = tuple[Float64, Float64]  # of texts, of pictures


def _of_pictures(source: Hits, found: Hits, owners: NDArray[np.int64]) -> Evidence:
    """The ratio over chosen pictures, each with its captions."""
    pictures = np.arange(len(source[1]))

    def rate(hits: Hits, kept: NDArray[np.intp]) -> float:
        texts = hits[0][np.isin(owners, kept)]
        return float(texts.mean() + hits[1][kept].mean()) / 2 if len(texts) else float("nan")

    def ratio(kept: NDArray[np.intp]) -> float:
        base = rate(source, kept)
        return rate(found, kept) / base if base else float("nan")

    return Function(found[1], pictures, ratio, smallest=len(pictures))
