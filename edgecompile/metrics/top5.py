"""How many of the source's five likeliest next tokens are among the five likeliest again."""
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edgecompile.metrics import Float64, Groups, Measurement, mean
from edgecompile.statistics.evidence import Mean

COUNT = 5


def shares(source: ArrayLike, found: ArrayLike) -> Float64:
    """The share of COUNT that both sides' rows [rows, choices] have in common; NaN kept."""
    import torch  # numpy's argpartition takes 13 times as long

    a, b = np.asarray(source), np.asarray(found)
    count = min(COUNT, a.shape[1])
    first, second = (torch.topk(torch.from_numpy(side), count).indices.numpy() for side in (a, b))
    same: Float64 = (first[:, :, None] == second[:, None, :]).any(2).mean(1)
    same[np.isnan(a).any(1) | np.isnan(b).any(1)] = np.nan
    return same


def measure(values: Float64, groups: Groups) -> Measurement:
    """`top5_agreement`, a rate in [0, 1]."""
    evidence = Mean(values, groups)
    return Measurement("top5_agreement", mean(values), "", "higher", len(values), evidence)
