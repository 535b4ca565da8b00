"""Bounds by resampling documents: the studentized bootstrap of means, the jackknife of the rest."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgecompile.statistics.exact import Float64, Int64

LEAST, MOST = 10_000, 50_000  # resamples
TAIL = 20  # resamples at least beyond a bound
FEW_GROUPS, MANY_GROUPS = 8, 2_000  # fewer: Student's t; more: the normal limit holds
BUCKETS = 40  # of documents that the jackknife leaves out together
CELLS = 1 << 22  # of a matrix of resamples, at a time


def mean_bounds(
    values: Float64, groups: Int64, low_error: float, high_error: float, seed: int
) -> tuple[float, float]:
    """Bounds of the mean of samples [n] whose documents, not they, are independent.

    The bootstrap-t over documents (Hall 1988; Field and Welsh 2007 for clusters): its coverage
    holds for skewed values. (-inf, inf) where there is one document.
    """
    numbers, inverse = np.unique(groups, return_inverse=True)
    if len(numbers) < 2 or not np.isfinite(values).all():
        return -math.inf, math.inf
    sums = np.bincount(inverse, values).astype(np.float64)
    counts = np.bincount(inverse).astype(np.float64)
    mean, error = _estimate(sums, counts)
    if error <= 1e-12 * max(abs(mean), 1e-300):
        return mean, mean  # all samples are equal
    if not FEW_GROUPS <= len(numbers) <= MANY_GROUPS:
        low, high = (_student(p, len(numbers)) for p in (low_error, high_error))
        return mean - low * error, mean + high * error
    t = _studentized(sums - mean * counts, counts, min(low_error, high_error), seed)
    most = float(np.quantile(t, 1 - low_error, method="higher"))
    least = float(np.quantile(t, high_error, method="lower"))
    return mean - most * error, mean - least * error


def _estimate(sums: Float64, counts: Float64) -> tuple[float, float]:
    """A ratio of sums over groups and its standard error (linearized)."""
    size, total = len(sums), counts.sum()
    mean = float(sums.sum() / total)
    residuals = sums - mean * counts
    return mean, math.sqrt(size / (size - 1) * float(residuals @ residuals)) / float(total)


def _studentized(sums: Float64, counts: Float64, error: float, seed: int) -> Float64:
    """Mean* / error* of resampled groups whose mean is 0; infinite where one has no spread."""
    size = len(sums)
    resamples = int(min(max(LEAST, TAIL / max(error, 1e-9)), MOST))
    rng, found = np.random.default_rng(seed), []
    moments = np.stack([sums, counts, sums**2, sums * counts, counts**2], axis=1)
    chunk = max(1, CELLS // size)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=rows)
        a, b, aa, ab, bb = (drawn @ moments).T
        again = a / b
        spread = np.sqrt(np.maximum(aa - 2 * again * ab + again**2 * bb, 0.0) * size / (size - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = again / (spread / b)
        found.append(np.where(np.isnan(t), 0.0, t))  # no spread, and no difference either
    return np.concatenate(found)


def _student(error: float, groups: int) -> float:
    """Student's t that is exceeded with probability `error`."""
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, 1 - error))


def jackknife(
    statistic: Callable[[NDArray[np.intp]], float], groups: Int64, seed: int
) -> tuple[float, float, int]:
    """A statistic of chosen samples: its value, standard error, and groups left out in turn.

    Delete-a-group (Shao and Tu 1995, section 2.3): documents in at most BUCKETS random buckets.
    """
    whole, left = left_out(statistic, groups, seed)
    count = len(left)
    if count < 2:
        return whole, math.inf, count
    spread = left - left.mean()
    return whole, math.sqrt((count - 1) / count * float(spread @ spread)), count


def left_out(
    statistic: Callable[[NDArray[np.intp]], float], groups: Int64, seed: int
) -> tuple[float, Float64]:
    """A statistic of all samples, and of all but each bucket of documents in turn."""
    numbers, inverse = np.unique(groups, return_inverse=True)
    buckets = np.random.default_rng(seed).permutation(len(numbers)) % BUCKETS
    owner = buckets[inverse]
    count = min(len(numbers), BUCKETS)
    whole = statistic(np.arange(len(groups)))
    if count < 2:
        return whole, np.full(count, whole)
    left = [statistic(np.flatnonzero(owner != bucket)) for bucket in range(count)]
    return whole, np.array(left)


def student_bounds(
    value: float, error: float, groups: int, low_error: float, high_error: float
) -> tuple[float, float]:
    """Bounds of a value with a standard error estimated from so many groups."""
    if groups < 2 or not math.isfinite(error):
        return -math.inf, math.inf
    return value - _student(low_error, groups) * error, value + _student(high_error, groups) * error
