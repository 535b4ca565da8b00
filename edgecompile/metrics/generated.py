"""Generated text: does it follow from its own logits, and from the source's; does it go round?"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecompile.metrics import Float64, Measurement, mean

GRAM = 4  # tokens


def gap(gaps: Sequence[Float64]) -> Measurement:
    """`decode_gap` in nats: log p of the likeliest token less that of the one taken, the mean.

    0 where each token that was generated step by step is the likeliest of the logits at once.
    """
    values = np.concatenate(gaps) if gaps else np.empty(0)
    return Measurement("decode_gap", mean(values), "nats", "lower", len(values))


def prefix(source_gaps: Sequence[Float64], new: int) -> Measurement:
    """`greedy_prefix`: the share of `new` tokens before the source would take another one."""
    lengths = [
        int(np.argmax(gaps > 0)) if (gaps > 0).any() else len(gaps) for gaps in source_gaps
    ]
    shares = [length / max(1, min(new, len(gaps)))
              for length, gaps in zip(lengths, source_gaps, strict=True)]  # fmt: skip
    return Measurement("greedy_prefix", mean(np.array(shares)), "", "higher", len(shares))


def repetition(texts: Sequence[Sequence[int]]) -> Measurement:
    """`repetition`: the share of runs of GRAM tokens that came before in the same text."""
    shares = []
    for tokens in texts:
        runs = [tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)]
        shares.append(1 - len(set(runs)) / len(runs) if runs else 0.0)
    return Measurement("repetition", mean(np.array(shares)), "", "lower", len(shares))
