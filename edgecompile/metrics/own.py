"""A metric of the user's own: one number a sample, or several, by a function that they name."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecompile.metrics import Better, Float64, Measurement, mean
from edgecompile.statistics.evidence import Mean, Share


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


def measure(metric: OwnMetric, samples: Sequence[Float64]) -> Measurement:
    """The mean of all numbers that the samples gave, [numbers] each; a sample is a group.

    Where each is 0 or 1 it is a share, with exact bounds. Infinity counts as NaN, which fails.
    """
    values = np.concatenate(samples) if samples else np.zeros(0)
    groups = np.repeat(np.arange(len(samples)), [len(one) for one in samples])
    value = mean(values) if np.isfinite(values).all() else math.nan
    kind = Share if np.isin(values, (0.0, 1.0)).all() else Mean
    return Measurement(
        metric.name, value, metric.unit, metric.direction, len(values), kind(values, groups),
        metric.ideal,
    )  # fmt: skip
