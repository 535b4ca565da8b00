"""Many token lists through an encoder in batches of like length, back in the caller's order."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .engine import Engine, Float32
from .errors import UnsupportedError, UsageError

BATCH_TOKENS = 2048  # padded tokens that one call of an encoder gets at most
BATCH_TEXTS = 64
BATCH_PICTURES = 16
BATCH_VALUES = 1 << 24  # float32 that one call may answer: a vocabulary a token is a lot

Rows = Sequence[Sequence[int]]


def encode_all(engine: Engine, ids: Rows, width: int, types: Rows | None = None) -> Float32:
    """float32 [len(ids), width]: the engine's row for each token list; `types` of pairs."""
    for row in ids:
        check_ids(row)
    result = np.empty((len(ids), width), np.float32)
    for rows in _batches(ids):
        values = np.asarray(_encode(engine, ids, rows, types))
        if values.shape != (len(rows), width):
            raise UsageError("engine file", f"output {values.shape}", f"({len(rows)}, {width})")
        result[rows] = values
    return result


def encode_tokens(engine: Engine, ids: Rows, width: int) -> Iterator[tuple[int, Float32]]:
    """Number of a token list and its float32 [tokens, width], batch after batch."""
    for row in ids:
        check_ids(row)
    for rows in _batches(ids, min(BATCH_TOKENS, BATCH_VALUES // max(width, 1))):
        for number, values in zip(rows, _encode(engine, ids, rows, None), strict=True):
            length = len(ids[number])
            if values.ndim != 2 or len(values) < length or values.shape[1] != width:
                found, expected = f"output {values.shape}", f"({length}, {width})"
                raise UsageError("engine file", found, expected)
            yield number, values[:length]


def _encode(
    engine: Engine, ids: Rows, rows: Sequence[int], types: Rows | None
) -> Sequence[Float32] | Float32:
    chosen = None if types is None else [types[row] for row in rows]
    return engine.encode([ids[row] for row in rows], chosen)


def look_all(engine: Engine, pixels: Float32, batch: int | str) -> Float32:
    """float32 [n, width]: the engine's row for each prepared picture of [n, 3, height, width].

    `batch` is the first size of the graph's input: a number, or the name of one that varies.
    """
    size = batch if isinstance(batch, int) else BATCH_PICTURES
    parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    rows = [next(iter(engine.run({"pixel_values": part}).values())) for part in parts]
    if not rows:
        raise UsageError("pictures", "none", "at least one")
    return np.concatenate(rows).astype(np.float32, copy=False)


def check_ids(ids: Sequence[int]) -> None:
    """Refuse no tokens, and ids below 0 (a graph would count them from the end)."""
    if not len(ids) or min(ids) < 0:
        raise UsageError("token ids", f"{list(ids[:9])}", "at least one, none below 0")


def _batches(ids: Rows, tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Row numbers, shortest first: a padded batch then computes little padding."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda at: len(ids[at])):
        full = len(batch) == BATCH_TEXTS or (len(batch) + 1) * len(ids[row]) > tokens
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def activate(scores: Float32, activation: str) -> Float32:
    """Of scores [n, labels]: `softmax` over labels, `sigmoid` of each, or `identity`."""
    if activation == "identity":
        return scores
    if activation == "sigmoid":
        return np.asarray(0.5 + 0.5 * np.tanh(scores / 2), np.float32)
    if activation != "softmax":
        raise UnsupportedError("activation", repr(activation), "softmax, sigmoid or identity")
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
