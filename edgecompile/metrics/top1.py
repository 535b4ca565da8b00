"""How often the likeliest next token, or the likeliest class, is the source's."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgecompile.metrics import Float64, Groups, Measurement, mean
from edgecompile.statistics.evidence import Share


def agreements(source: ArrayLike, found: ArrayLike) -> Float64:
    """1.0 where the largest of each row [rows, choices] is the same choice, else 0.0; NaN kept."""
    a, b = np.asarray(source), np.asarray(found)
    same: Float64 = (a.argmax(1) == b.argmax(1)).astype(np.float64)
    same[np.isnan(a).any(1) | np.isnan(b).any(1)] = np.nan
    return same


def measure(values: Float64, groups: Groups, metric: str = "top1_agreement") -> Measurement:
    """`top1_agreement`, or a classifier's `class_agreement`: a rate in [0, 1]."""
    evidence = Share(values, groups)
    return Measurement(metric, mean(values), "", "higher", len(values), evidence)
