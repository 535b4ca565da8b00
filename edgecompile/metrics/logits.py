"""Source and bundle's logits, streamed in pieces: only one number a token and metric is kept."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics import Float64, Measurement

ROWS = 16  # rows in float64 at a time: 16 x 150,000 x 8 bytes are 19 MB


def log_softmax(logits: NDArray[np.float32]) -> Float64:
    """Log p = x - log sum exp x in float64, of [rows, vocabulary]."""
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x


def softmax(log_probabilities: Float64) -> Float64:
    """Exp of log probabilities."""
    probabilities: Float64 = np.exp(log_probabilities)
    return probabilities


class LogitComparison:
    """Per-token divergence, agreement and surprisals of windows of text."""

    def __init__(self) -> None:
        self._kl: list[Float64] = []
        self._top1: list[Float64] = []
        self._source: list[Float64] = []
        self._found: list[Float64] = []

    def add(
        self,
        ids: NDArray[np.int64],
        source: Iterable[NDArray[np.float32]],
        found: Iterable[NDArray[np.float32]],
    ) -> None:
        """One window: its token ids [n] and both sides' logits [n, vocabulary] in pieces.

        Row i predicts ids[i + 1], so the last row has divergence but no surprisal.
        """
        self.add_rows(ids[1:], len(ids), source, found)

    def add_rows(
        self,
        truth: NDArray[np.int64],
        rows: int,
        source: Iterable[NDArray[np.float32]],
        found: Iterable[NDArray[np.float32]],
    ) -> None:
        """`rows` distributions of both sides; row i predicts truth[i], where there is one."""
        from edgecompile.metrics import kl, perplexity, top1

        done = 0
        for p, q in _aligned(source, found):
            a, b = log_softmax(p), log_softmax(q)
            self._kl.append(kl.divergences(a, b))
            self._top1.append(top1.agreements(p, q))
            following = truth[done : done + len(p)]
            self._source.append(perplexity.surprisals(a[: len(following)], following))
            self._found.append(perplexity.surprisals(b[: len(following)], following))
            done += len(p)
        if done != rows:
            self._kl.append(np.full(1, np.nan))  # a side that stopped early is a fault

    def measure(self) -> tuple[Measurement, ...]:
        """Measurements of kl, perplexity and top1 over all windows."""
        from edgecompile.metrics import kl, perplexity, top1

        return (
            *kl.measure(_joined(self._kl)),
            *perplexity.measure(_joined(self._source), _joined(self._found)),
            top1.measure(_joined(self._top1)),
        )


def _joined(pieces: list[Float64]) -> Float64:
    return np.concatenate(pieces) if pieces else np.empty(0)


def _aligned(
    source: Iterable[NDArray[np.float32]], found: Iterable[NDArray[np.float32]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Both sides in equal pieces of at most ROWS rows, whatever pieces they come in."""
    left, right = iter(source), iter(found)
    a: NDArray[np.float32] | None = next(left, None)
    b: NDArray[np.float32] | None = next(right, None)
    while a is not None and b is not None:
        rows = min(len(a), len(b), ROWS)
        yield a[:rows], b[:rows]
        a = a[rows:] if len(a) > rows else next(left, None)
        b = b[rows:] if len(b) > rows else next(right, None)
