"""Kullback-Leibler divergence of the next-token distribution from the source's."""
from __future__ import annotations

import numpy as np

from edgecompile.metrics import Float64, Measurement, mean, worst
from edgecompile.metrics.logits import softmax


def divergences(source: Float64, found: Float64) -> Float64:
    """sum_v p_v (log p_v - log q_v) of log probabilities [rows, vocabulary] -> [rows] in nats.

    p is the source's; rounding below 0 is cut to 0; NaN stays NaN.
    """
    kl: Float64 = np.maximum((softmax(source) * (source - found)).sum(1), 0.0)
    return kl


def measure(values: Float64) -> tuple[Measurement, ...]:
    """`kl_mean` and `kl_p999` (0.1 % of the tokens are worse)."""
    return (
        Measurement("kl_mean", mean(values), "nats", "lower", len(values)),
        Measurement("kl_p999", worst(values, 0.001, "lower"), "nats", "lower", len(values)),
    )
