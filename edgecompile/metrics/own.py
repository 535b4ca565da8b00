"""A metric of the user's own: one number a sample, or several, by a function that they name."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecompile.metrics import Better, Float64, Measurement, mean
from edgecompile.statistics import exact
from edgecompile.statistics.evidence import Bounds, Mean, Share


@dataclass(frozen=True)
class OwnMetric:
    """What a recipe says of it; `place` names its function without folders, for people."""

    name: str
    place: str
    direction: Better
    limit: float | None
    ideal: float
    unit: str
    function: Callable[[Any], Any] = field(compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Scored(Mean):
    """A mean of numbers on a scale of the user's, which is about `scale` long.

    Where all numbers are alike nothing shows how they vary: then as many documents as could hide
    unseen may be off by the whole scale.
    """

    scale: float = 1.0

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """The mean's; of numbers that are all alike by the exact bound of none of them."""
        low, high = super().bounds(low_error, high_error, seed)
        if low < high:
            return low, high
        count = len(np.unique(self.groups))
        below, above = (self.scale * exact.upper(0, count, p) for p in (low_error, high_error))
        return low - below, high + above


def measure(metric: OwnMetric, samples: Sequence[Float64]) -> Measurement:
    """The mean of all numbers that the samples gave, [numbers] each; a sample is a group.

    Where each is 0 or 1 it is a share, with exact bounds. Infinity counts as NaN, which fails.
    """
    values = np.concatenate(samples) if samples else np.zeros(0)
    groups = np.repeat(np.arange(len(samples)), [len(one) for one in samples])
    value = mean(values) if np.isfinite(values).all() else math.nan
    evidence = Share(values, groups) if np.isin(values, (0.0, 1.0)).all() else \
        Scored(values, groups, scale=max(abs(metric.ideal), 1.0))  # fmt: skip
    return Measurement(
        metric.name, value, metric.unit, metric.direction, len(values), evidence, metric.ideal
    )
