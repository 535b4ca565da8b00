"""What a mean over samples hides: the mean over classes, the worst class, and confidence."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics import Float64, Measurement

BINS = 15  # of equal width, as in Guo et al. (2017), section 2
LEAST = 5  # samples of a class, for it to be the worst

Classes = NDArray[np.int64]


def f1_scores(truth: Classes, found: Classes, classes: int) -> Float64:
    """2 hits / (truth + found) of each class [classes]; NaN for one that neither side has."""
    hits = np.bincount(truth[truth == found], minlength=classes)
    total = np.bincount(truth, minlength=classes) + np.bincount(found, minlength=classes)
    with np.errstate(invalid="ignore"):
        scores: Float64 = 2 * hits / total
    return scores


def recalls(truth: Classes, found: Classes, classes: int) -> Float64:
    """The share of each class that is found again [classes]; NaN below LEAST samples."""
    counts = np.bincount(truth, minlength=classes).astype(np.float64)
    counts[counts < LEAST] = np.nan
    shares: Float64 = np.bincount(truth[truth == found], minlength=classes) / counts
    return shares


def calibration_error(truth: Classes, probabilities: Float64) -> float:
    """Expected calibration error: |accuracy - confidence| over bins of confidence, weighted.

    Guo et al. (2017), equation 3; `probabilities` [samples, classes]; NaN without samples.
    """
    if not len(truth):
        return float("nan")
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    owner = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(owner, right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(truth))


def measure(
    truth: Classes, source: Float64, found: Float64, names: Sequence[str]
) -> tuple[Measurement, ...]:
    """`macro_f1`, `worst_class_recall` and `calibration_error`, each also `_source`.

    Of probabilities [samples, classes] of both sides.
    """
    measured = []
    for side, suffix in ((found, ""), (source, "_source")):
        chosen = side.argmax(1)
        scores, recall = (kind(truth, chosen, len(names)) for kind in (f1_scores, recalls))
        count = len(truth)
        macro = float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")
        measured.append(Measurement(f"macro_f1{suffix}", macro, "", "higher", count))
        if np.isfinite(recall).any():
            worst = float(np.nanmin(recall))
            name = f"worst_class_recall{suffix}"
            measured.append(Measurement(name, worst, "", "higher", count))
        error = calibration_error(truth, side)
        measured.append(Measurement(f"calibration_error{suffix}", error, "", "lower", count))
    return tuple(measured)
