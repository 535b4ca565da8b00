"""What transformer encoders have in common, drawn: a norm, attention, a vector of length 1."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecompile.backends.executorch_graph.sheet import Sheet, products

SQUARES, SCALE = "squares", "attention_scale"
TINY = 1e-24  # added to the sum of squares: torch's normalize divides by at least 1e-12


@dataclass(kw_only=True)
class LayerSheet(Sheet):
    """The sheet with the numbers that layers need."""

    heads: int
    epsilon: float


def norm(sheet: LayerSheet, name: str, value: int) -> int:
    """Layer normalization (Ba et al. 2016)."""
    d, dims = sheet.delegate, len(sheet.delegate.shape(value))
    centred = d.subtract(value, sheet.mean(value, 0.0))
    variance = sheet.mean(d.multiply(centred, centred), sheet.epsilon)
    scaled = d.multiply(centred, d.inverse_root(variance))
    scaled = d.multiply(scaled, sheet.vector(f"{name}.weight", dims))
    return d.add(scaled, sheet.vector(f"{name}.bias", dims))


def attention(
    sheet: LayerSheet, qkv: Sequence[str], value: int, mask: int | None = None, label: str = SCALE
) -> int:
    """softmax(q k / sqrt(size) + mask) v for each head (Vaswani et al. 2017), heads joined.

    `mask` is [1, 1, tokens, tokens]; `label` names the constant of that size of heads.
    """
    d = sheet.delegate
    width = d.shape(value)[-1]
    size = width // sheet.heads
    q, k, v = (
        d.transpose(d.reshape(one, 1, 0, sheet.heads, size), 0, 2, 1, 3)
        for one in products(sheet, qkv, value)
    )
    factor = np.array([1 / math.sqrt(size)], np.float32)
    q = d.multiply(q, sheet.floats(label, (1, 1, 1, 1), factor))
    scores = d.matmul(q, k, transposed=True)
    if mask is not None:
        scores = d.add(scores, mask)
    mixed = d.matmul(d.softmax(scores), v)
    return d.reshape(d.transpose(mixed, 0, 2, 1, 3), 1, 0, width)


def unit(sheet: Sheet, vector: int) -> int:
    """[1, width] over its length."""
    d = sheet.delegate
    width = d.shape(vector)[-1]
    ones = sheet.floats(f"{SQUARES}.{width}", (1, width), np.ones((1, width), np.float32))
    tiny = sheet.floats(f"{SQUARES}.tiny", (1,), np.array([TINY], np.float32))
    squares = d.linear(d.multiply(vector, vector), ones, tiny)
    return d.multiply(vector, d.inverse_root(squares))
