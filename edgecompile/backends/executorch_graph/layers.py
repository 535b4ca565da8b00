"""What transformer encoders have in common, drawn: norms, attention, patches, layers."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecompile.backends.executorch_graph.sheet import Sheet, product, products
from edgecompile.numerics.schemes import Scheme

SQUARES, SCALE = "squares", "attention_scale"
GELU, ZERO, TURN = "gelu", "zero", "turn"
QUICK, QUICK_FACTOR = "gelu.quick", 1.702  # x sigmoid(1.702 x), of Hendrycks & Gimpel 2016
Tables = tuple[int, int]  # cos and sin of whole heads
TINY = 1e-24  # added to the sum of squares: torch's normalize divides by at least 1e-12


@dataclass(frozen=True)
class PreNorm:
    """Names in a layer whose norms come before its attention and before its MLP."""

    layer: str  # what the following names are below
    norms: tuple[str, str]
    attention: str  # followed by `q_proj`, `k_proj`, `v_proj`
    out: str
    up: str = "mlp.fc1"
    down: str = "mlp.fc2"


@dataclass(kw_only=True)
class LayerSheet(Sheet):
    """The sheet with the numbers that layers need."""

    heads: int
    epsilon: float


def norm(sheet: LayerSheet, name: str, value: int) -> int:
    """Layer normalization (Ba et al. 2016), with a bias where there is one."""
    return layer_norm(sheet, name, value, sheet.epsilon)


def layer_norm(sheet: Sheet, name: str, value: int, epsilon: float) -> int:
    """The same, of a sheet that has no epsilon of its own."""
    d, dims = sheet.delegate, len(sheet.delegate.shape(value))
    centred = d.subtract(value, sheet.mean(value, 0.0))
    variance = sheet.mean(d.multiply(centred, centred), epsilon)
    scaled = d.multiply(centred, d.inverse_root(variance))
    scaled = d.multiply(scaled, sheet.vector(f"{name}.weight", dims))
    if not sheet.source(f"{name}.bias"):
        return scaled
    return d.add(scaled, sheet.vector(f"{name}.bias", dims))


def attention(
    sheet: LayerSheet, qkv: Sequence[str], value: int, mask: int | None = None
) -> int:
    """softmax(q k / sqrt(size) + mask) v for each head (Vaswani et al. 2017), heads joined.

    `mask` is [1, 1 or heads, tokens, tokens].
    """
    d = sheet.delegate
    width = d.shape(value)[-1]
    size = width // sheet.heads
    q, k, v = (
        d.transpose(d.reshape(one, 1, 0, sheet.heads, size), 0, 2, 1, 3)
        for one in products(sheet, qkv, value)
    )
    return mixed(sheet, (q, k, v), mask)


def mixed(sheet: Sheet, qkv: tuple[int, int, int], mask: int | None) -> int:
    """Attention over heads [1, heads, tokens, size]: [1, tokens, heads x size]."""
    d, (query, keys, values) = sheet.delegate, qkv
    _, heads, _, size = d.shape(query)
    factor = np.array([1 / math.sqrt(size)], np.float32)
    query = d.multiply(query, sheet.floats(f"{SCALE}.{size}", (1, 1, 1, 1), factor))
    scores = d.matmul(query, keys, transposed=True)
    if mask is not None:
        scores = d.add(scores, mask)
    found = d.matmul(d.softmax(scores), values)
    return d.reshape(d.transpose(found, 0, 2, 1, 3), 1, 0, heads * size)


def unit(sheet: Sheet, vector: int) -> int:
    """[1, width] over its length."""
    d = sheet.delegate
    width = d.shape(vector)[-1]
    ones = sheet.floats(f"{SQUARES}.{width}", (1, width), np.ones((1, width), np.float32))
    tiny = sheet.floats(f"{SQUARES}.tiny", (1,), np.array([TINY], np.float32))
    squares = d.linear(d.multiply(vector, vector), ones, tiny)
    return d.multiply(vector, d.inverse_root(squares))


def patches(sheet: Sheet, name: str, pixels: int) -> int:
    """Vectors [1, patches, width] of pixels [1, channels, height, width].

    A convolution in steps of its kernels' size is a product; what is left at the edges is cut off.
    """
    d, source = sheet.delegate, sheet.source(f"{name}.weight")
    kernels = sheet.model.dense(source)
    _, channels, *sides = kernels.shape
    counts = [whole // side for whole, side in zip(d.shape(pixels)[2:], sides, strict=True)]
    for axis, (count, side) in enumerate(zip(counts, sides, strict=True), 2):
        if d.shape(pixels)[axis] % side:
            pixels = d.cut(pixels, axis, 0, count * side)
    (rows, columns), (height, width) = counts, sides
    parts = d.transpose(
        d.reshape(pixels, channels, rows, height, columns, width), 1, 3, 0, 2, 4
    )
    size = channels * height * width
    weight = sheet.floats(source, (len(kernels), size), kernels)
    flat = d.reshape(parts, 1, rows * columns, size)
    return d.linear(flat, weight, sheet.bias([name]))


def pre_norm(
    sheet: LayerSheet, names: PreNorm, activation: str, value: int, mask: int | None = None
) -> int:
    """One layer: attention and an MLP, each of a norm of the stream that it is added to."""
    d, (before, after) = sheet.delegate, (names.layer + name for name in names.norms)
    qkv = [f"{names.layer}{names.attention}.{name}_proj" for name in "qkv"]
    attended = attention(sheet, qkv, norm(sheet, before, value), mask)
    stream = d.add(value, product(sheet, [names.layer + names.out], attended))
    hidden = product(sheet, [names.layer + names.up], norm(sheet, after, stream))
    hidden = activated(sheet, activation, hidden)
    return d.add(stream, product(sheet, [names.layer + names.down], hidden))


def activated(sheet: Sheet, activation: str, value: int) -> int:
    """relu, gelu, quick_gelu, silu, or gelu_tanh: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    d = sheet.delegate
    if activation == "relu":
        return d.largest(value, sheet.number(value, ZERO, 0.0))
    if activation == "gelu":
        return d.gelu(value)
    inner = value
    if activation == "quick_gelu":
        inner = sheet.times(value, QUICK, QUICK_FACTOR)
    if activation == "gelu_tanh":
        root = 2 * math.sqrt(2 / math.pi)
        cube = d.multiply(d.multiply(value, value), value)
        linear = sheet.times(value, f"{GELU}.1", root)
        inner = d.add(linear, sheet.times(cube, f"{GELU}.3", root * 0.044715))
    return d.multiply(value, d.sigmoid(inner))


def root_mean_square(sheet: Sheet, value: int, weight: int, epsilon: float) -> int:
    """RMSNorm over the last dimension (Zhang & Sennrich 2019)."""
    d = sheet.delegate
    mean = sheet.mean(d.multiply(value, value), epsilon)
    return d.multiply(d.multiply(value, d.inverse_root(mean)), weight)


def swaps(schemes: Mapping[str, Scheme], table: str, tied: bool) -> bool:
    """Whether an embedding's look-up reads a 4-bit table in the order of the tied head's product.

    The operator and XNNPACK take a byte's nibbles in two orders; the table is stored once.
    """
    scheme = schemes.get(table)
    return tied and scheme is not None and scheme.bits == 4


def unswapped(sheet: Sheet, stream: int) -> int:
    """Each two neighbours of rows [1, tokens, width] in the other's place."""
    d = sheet.delegate
    width = d.shape(stream)[-1]
    pairs = d.reshape(stream, 1, 0, width // 2, 2)
    even, odd = (d.cut(pairs, 3, at, 1) for at in (1, 0))
    return d.reshape(d.join(even, odd), 1, 0, width)


def whole_heads(sheet: Sheet, rows: int) -> Tables:
    """Tables from rows of cos and sin side by side, [1, tokens, 1, size]."""
    d = sheet.delegate
    half = d.shape(rows)[-1] // 2
    cos, sin = (d.cut(rows, 3, start, half) for start in (0, half))
    return d.join(cos, cos), d.join(sin, sin)


def turned(sheet: Sheet, heads: int, tables: Tables) -> int:
    """x cos + (minus second half, first half) sin, of x [1, tokens, heads, size] (Su et al. 2021).

    The halves change places by one product with 0, 1 and -1, exactly.
    """
    d, size = sheet.delegate, sheet.delegate.shape(tables[0])[-1]
    half, turn = size // 2, np.zeros((size, size), np.float32)
    turn[range(half), range(half, size)], turn[range(half, size), range(half)] = -1, 1
    other = d.linear(heads, sheet.floats(f"{TURN}.{size}", (size, size), turn))
    return d.add(d.multiply(heads, tables[0]), d.multiply(other, tables[1]))
