"""Metrics: one number each with its unit, direction and sample count; numpy only."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecompile.statistics.evidence import Evidence

Float64 = NDArray[np.float64]
Groups = NDArray[np.int64]  # of which document each sample is
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measurement:
    """One metric's value over `samples`; never rounded, NaN where a sample was."""

    metric: str
    value: float
    unit: str  # "", nats, MB, s, ms, MiB, tokens/s
    better: Better
    samples: int
    # What bounds the value; None where the samples are all there is (a file's size, an extreme).
    evidence: Evidence | None = field(default=None, compare=False, repr=False)
    # The value that loses nothing, where a user's metric says it; else statistics.verdicts.ideal's.
    ideal: float | None = None

    def within(self, limit: float) -> bool:
        """Whether the value is on the limit or on its better side; NaN never is."""
        if math.isnan(self.value) or math.isnan(limit):
            return False
        return self.value >= limit if self.better == "higher" else self.value <= limit


def worst(values: Float64, share: float, better: Better) -> float:
    """The value that `share` of the samples are worse than, a sample itself (no interpolation).

    NaN where any sample is NaN, or where there is none.
    """
    if not len(values) or np.isnan(values).any():
        return math.nan
    level, method = (share, "lower") if better == "higher" else (1 - share, "higher")
    return float(np.quantile(values, level, method=method))  # type: ignore[call-overload]


def each_alone(values: Float64) -> Groups:
    """Groups [n] of samples that are documents of their own."""
    return np.arange(len(values))


def mean(values: Float64) -> float:
    """The arithmetic mean; NaN where there is no sample."""
    return float(np.mean(values)) if len(values) else math.nan
