"""What stands between two attentions of a decoder, drawn as subgraphs for XNNPACK.

RMSNorm: Zhang & Sennrich 2019; SwiGLU: Shazeer 2020; rotary positions: Su et al. 2021.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecompile.backends.decoders import (
    DOWN,
    EMBEDDING,
    GATE_UP,
    HEAD,
    HEAD_NORMS,
    NORM,
    NORMS,
    OUT,
    QKV,
    DecoderPlan,
)
from edgecompile.backends.executorch_graph.sheet import Sheet, product, products
from edgecompile.backends.joining import joinable

TURN = "turn"  # a constant that is not the source's


@dataclass(kw_only=True)
class DecoderSheet(Sheet):
    """A sheet of a decoder."""

    plan: DecoderPlan


def first(sheet: DecoderSheet) -> DecoderSheet:
    """stream, rotary rows -> cos and sin of whole heads, and q, k, v of layer 0."""
    d, size = sheet.delegate, sheet.plan.head_size
    stream = sheet.input(_width(sheet))
    rows = sheet.input(1, size)
    cos, sin = (d.cut(rows, 3, start, size // 2) for start in (0, size // 2))
    tables = d.join(cos, cos), d.join(sin, sin)
    for value in (*tables, *_qkv(sheet, 0, stream, tables)):
        d.output(value)
    return sheet


def middle(sheet: DecoderSheet, layer: int) -> DecoderSheet:
    """attended, stream, cos, sin -> stream after this layer, and q, k, v of the next one."""
    d, plan = sheet.delegate, sheet.plan
    attended = sheet.input(plan.heads, plan.head_size)
    stream = sheet.input(_width(sheet))
    tables = sheet.input(1, plan.head_size), sheet.input(1, plan.head_size)
    stream = _rest(sheet, layer, attended, stream)
    for value in (stream, *_qkv(sheet, layer + 1, stream, tables)):
        d.output(value)
    return sheet


def last(sheet: DecoderSheet) -> DecoderSheet:
    """attended, stream of some rows -> their logits."""
    plan = sheet.plan
    attended = sheet.input(plan.heads, plan.head_size)
    stream = _rest(sheet, plan.layers - 1, attended, sheet.input(_width(sheet)))
    head = EMBEDDING if plan.tied else HEAD
    normed = _norm(sheet, NORM, stream)
    sheet.delegate.output(product(sheet, [head.removesuffix(".weight")], normed))
    return sheet


def _width(sheet: DecoderSheet) -> int:
    return sheet.model.weights.infos[sheet.source(EMBEDDING)].shape[1]


def _norm(sheet: DecoderSheet, name: str, value: int) -> int:
    """RMSNorm over the last dimension."""
    d = sheet.delegate
    mean = sheet.mean(d.multiply(value, value), sheet.plan.epsilon)
    scaled = d.multiply(value, d.inverse_root(mean))
    return d.multiply(scaled, sheet.vector(name, len(d.shape(value))))


def _qkv(sheet: DecoderSheet, layer: int, stream: int, tables: tuple[int, int]) -> list[int]:
    """q, k, v [1, tokens, heads, size], q and k rotated."""
    d, plan, start = sheet.delegate, sheet.plan, f"model.layers.{layer}."
    normed = _norm(sheet, f"{start}{NORMS[0]}.weight", stream)
    found: dict[str, int] = {}
    for group in joinable([start + name for name in QKV], sheet.sources, sheet.schemes):
        joined = product(sheet, group, normed)
        heads = d.reshape(joined, 1, 0, _heads(sheet, group), plan.head_size)
        kept = [name for name in group if not name.endswith(QKV[2])]
        if kept != group:
            at, count = _heads(sheet, kept), plan.kv_heads
            found[group[-1]] = d.cut(heads, 2, at, count) if kept else heads
            heads = d.cut(heads, 2, 0, at) if kept else heads
        if kept and plan.head_norms:
            for name, part in _cut_heads(sheet, kept, heads).items():
                norm = HEAD_NORMS[name.endswith(QKV[1])]
                normed_heads = _norm(sheet, f"{start}{norm}.weight", part)
                found[name] = _rotated(sheet, normed_heads, tables)
        elif kept:
            found |= _cut_heads(sheet, kept, _rotated(sheet, heads, tables))
    return [found[start + name] for name in QKV]


def _heads(sheet: DecoderSheet, names: Sequence[str]) -> int:
    rows = sum(sheet.rows(name) for name in names)
    return rows // sheet.plan.head_size


def _cut_heads(sheet: DecoderSheet, names: Sequence[str], heads: int) -> dict[str, int]:
    """A joint value [1, tokens, heads, size] by the names of its parts."""
    if len(names) == 1:
        return {names[0]: heads}
    found, start = {}, 0
    for name in names:
        count = _heads(sheet, [name])
        found[name] = sheet.delegate.cut(heads, 2, start, count)
        start += count
    return found


def _rotated(sheet: DecoderSheet, heads: int, tables: tuple[int, int]) -> int:
    """x cos + (minus second half, first half) sin.

    The halves change places by one product with 0, 1 and -1, exactly.
    """
    d, size = sheet.delegate, sheet.plan.head_size
    half, turn = size // 2, np.zeros((size, size), np.float32)
    turn[range(half), range(half, size)], turn[range(half, size), range(half)] = -1, 1
    turned = d.linear(heads, sheet.floats(f"{TURN}.{size}", (size, size), turn))
    return d.add(d.multiply(heads, tables[0]), d.multiply(turned, tables[1]))


def _rest(sheet: DecoderSheet, layer: int, attended: int, stream: int) -> int:
    """A layer after its attention: output projection, residual, SwiGLU, residual."""
    d, plan, start = sheet.delegate, sheet.plan, f"model.layers.{layer}."
    flat = d.reshape(attended, 1, 0, plan.heads * plan.head_size)
    stream = d.add(stream, product(sheet, [start + OUT], flat))
    normed = _norm(sheet, f"{start}{NORMS[1]}.weight", stream)
    gate, up = products(sheet, [start + name for name in GATE_UP], normed)
    hidden = d.multiply(d.multiply(gate, d.sigmoid(gate)), up)
    return d.add(stream, product(sheet, [start + DOWN], hidden))


