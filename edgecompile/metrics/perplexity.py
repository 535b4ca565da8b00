"""Perplexity on held-out text, as a ratio to the source's."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics import Float64, Groups, Measurement, mean
from edgecompile.statistics.evidence import Mean


def surprisals(log_probabilities: Float64, following: NDArray[np.int64]) -> Float64:
    """-log p of the token that follows each row; [rows, vocabulary], [rows] -> [rows] in nats."""
    taken: Float64 = -log_probabilities[np.arange(len(following)), following]
    return taken


def perplexity(values: Float64) -> float:
    """Exp of the mean surprisal."""
    return float(np.exp(mean(values)))


def measure(source: Float64, found: Float64, groups: Groups) -> tuple[Measurement, ...]:
    """`perplexity_ratio` = perplexity(found) / perplexity(source), and both perplexities."""
    count = len(found)
    evidence = Mean(found - source, groups, exponential=True)
    ratio = float(np.exp(mean(evidence.values)))
    return (
        Measurement("perplexity_ratio", ratio, "", "lower", count, evidence),
        Measurement("perplexity", perplexity(found), "", "lower", count),
        Measurement("perplexity_source", perplexity(source), "", "lower", count),
    )
