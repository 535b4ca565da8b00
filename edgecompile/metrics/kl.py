"""Kullback-Leibler divergence of the next-token distribution from the source's."""
from __future__ import annotations

import numpy as np

from edgecompile.metrics import Float64, Groups, Measurement, mean, worst
from edgecompile.metrics.logits import softmax
from edgecompile.statistics.evidence import Mean, Tail


def divergences(source: Float64, found: Float64) -> Float64:
    """sum_v p_v (log p_v - log q_v) of log probabilities [rows, vocabulary] -> [rows] in nats.

    p is the source's; rounding below 0 is cut to 0; NaN stays NaN.
    """
    kl: Float64 = np.maximum((softmax(source) * (source - found)).sum(1), 0.0)
    return kl


def measure(values: Float64, groups: Groups) -> tuple[Measurement, ...]:
    """`kl_mean`, `kl_p99`, `kl_p999` (0.1 % of the tokens are worse) and `kl_max`.

    `groups` int64 [tokens] says of which document each is.
    """
    count = len(values)
    return (
        Measurement("kl_mean", mean(values), "nats", "lower", count, Mean(values, groups)),
        _tail("kl_p99", values, groups, 0.01),
        _tail("kl_p999", values, groups, 0.001),
        Measurement("kl_max", worst(values, 0.0, "lower"), "nats", "lower", count),
    )


def _tail(metric: str, values: Float64, groups: Groups, share: float) -> Measurement:
    evidence = Tail(values, groups, share, "lower")
    value = worst(values, share, "lower")
    return Measurement(metric, value, "nats", "lower", len(values), evidence)
