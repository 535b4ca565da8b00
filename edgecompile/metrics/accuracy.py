"""Accuracy on labelled text, against the source's own accuracy on the same text."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecompile.metrics import Float64, Measurement, each_alone, mean
from edgecompile.statistics.evidence import Paired


def hits(predicted: Sequence[str], labels: Sequence[str]) -> Float64:
    """1.0 where a prediction is its text's label, else 0.0."""
    return np.array([float(p == y) for p, y in zip(predicted, labels, strict=True)])


def measure(source: Float64, found: Float64) -> tuple[Measurement, ...]:
    """`accuracy_ratio` = accuracy(found) / accuracy(source), and both accuracies."""
    one, other, count = mean(source), mean(found), len(found)
    ratio = other / one if one else float("nan")
    evidence = Paired(source, found, each_alone(found))
    return (
        Measurement("accuracy_ratio", ratio, "", "higher", count, evidence),
        Measurement("accuracy", other, "", "higher", count),
        Measurement("accuracy_source", one, "", "higher", count),
    )
