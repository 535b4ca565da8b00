"""Source and bundle's logits, streamed in pieces: only some numbers a token are kept."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics import Float64, Groups, Measurement

ROWS = 16  # rows in float64 at a time: 16 x 150,000 x 8 bytes are 19 MB

Chunks = Iterable[NDArray[np.float32]]  # [rows, vocabulary] each


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


class TokenRows(NamedTuple):
    """What is kept of both sides' distributions, [rows] each; surprisals where a token follows."""

    kl: Float64
    top1: Float64
    top5: Float64
    source: Float64  # surprisals in nats
    found: Float64


def compared(truth: NDArray[np.int64], rows: int, source: Chunks, found: Chunks) -> TokenRows:
    """`rows` distributions of both sides; row i predicts truth[i], where there is one.

    A side that stops early is a fault: one NaN more.
    """
    from edgecompile.metrics import kl, perplexity, top1, top5

    parts, done = [], 0
    for p, q in _aligned(source, found):
        a, b = log_softmax(p), log_softmax(q)
        following = truth[done : done + len(p)]
        parts.append(TokenRows(
            kl.divergences(a, b), top1.agreements(p, q), top5.shares(p, q),
            perplexity.surprisals(a[: len(following)], following),
            perplexity.surprisals(b[: len(following)], following),
        ))  # fmt: skip
        done += len(p)
    if done != rows:
        parts.append(TokenRows(np.full(1, np.nan), *(np.empty(0) for _ in range(4))))
    return _together(parts)


def compared_window(ids: NDArray[np.int64], source: Chunks, found: Chunks) -> TokenRows:
    """One window: its token ids [n] and both sides' logits [n, vocabulary] in pieces.

    Row i predicts ids[i + 1], so the last row has divergence but no surprisal.
    """
    return compared(ids[1:], len(ids), source, found)


def measure(pieces: Iterable[tuple[TokenRows, Groups]]) -> tuple[Measurement, ...]:
    """Measurements of kl, perplexity, top1 and top5 over pieces of text.

    With each the document that each of its rows is of, int64 [rows].
    """
    from edgecompile.metrics import kl, perplexity, top1, top5

    whole = list(pieces)
    rows = _together([piece for piece, _ in whole])
    groups = np.concatenate([_fitted(g, len(p.kl)) for p, g in whole] or [np.empty(0, np.int64)])
    following = [_fitted(g, len(p.found)) for p, g in whole] or [np.empty(0, np.int64)]
    agreed = [_fitted(g, len(p.top1)) for p, g in whole] or [np.empty(0, np.int64)]
    return (
        *kl.measure(rows.kl, groups),
        *perplexity.measure(rows.source, rows.found, np.concatenate(following)),
        top1.measure(rows.top1, np.concatenate(agreed)),
        top5.measure(rows.top5, np.concatenate(agreed)),
    )


def _fitted(groups: Groups, rows: int) -> Groups:
    """The groups of so many rows: a NaN for a side that stopped early is of the last document."""
    more = max(0, rows - len(groups))
    return np.concatenate([groups[:rows], np.full(more, groups[-1] if len(groups) else 0)])


def _together(parts: list[TokenRows]) -> TokenRows:
    if not parts:
        return TokenRows(*(np.empty(0) for _ in range(5)))
    return TokenRows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _aligned(
    source: Chunks, found: Chunks
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
