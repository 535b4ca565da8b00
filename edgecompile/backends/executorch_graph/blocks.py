"""What stands between two attentions of a decoder, drawn as subgraphs for XNNPACK.

Gated MLP: Shazeer 2020; rotary positions: Su et al. 2021.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecompile.backends.decoders import (
    DOWN,
    EMBEDDING,
    FUSED_QKV,
    HEAD,
    HEAD_NORMS,
    NORM,
    OUT,
    QKV,
    DecoderPlan,
)
from edgecompile.backends.executorch_graph.layers import (
    Tables,
    activated,
    layer_norm,
    root_mean_square,
    swaps,
    turned,
    unswapped,
    whole_heads,
)
from edgecompile.backends.executorch_graph.sheet import Sheet, product, products
from edgecompile.backends.joining import joinable
from edgecompile.numerics.schemes import Scheme

# Constants that are not the source's
STREAM, QUERY, RESIDUAL, LOGITS = "stream.scale", "query.scale", "residual.scale", "logits.scale"
WINDOW, POSITIONS = "window", "positions"
HIDDEN = -1e9  # added to a score, for each place that is too far away


@dataclass(kw_only=True)
class DecoderSheet(Sheet):
    """A sheet of a decoder."""

    plan: DecoderPlan


def window(sheet: DecoderSheet, context: int, width: int) -> DecoderSheet:
    """positions [tokens, 1] -> [tokens, context]: 0 where a token sees a place, else <= HIDDEN.

    It sees itself and the `width` - 1 places before: those at most (width - 1) / 2 from the middle.
    """
    d, half = sheet.delegate, (width - 1) / 2
    positions = d.input(sheet.tokens, 1)
    middle = np.arange(context, dtype=np.float32)[None] + half
    places = sheet.floats(f"{WINDOW}.{width}.{context}", (1, context), middle)
    away = d.absolute(d.subtract(places, positions))
    reach, zero, hidden = (
        sheet.floats(f"{WINDOW}.{value}", (1, 1), np.array([value], np.float32))
        for value in (half, 0.0, HIDDEN)
    )
    beyond = d.largest(d.subtract(away, reach), zero)
    d.output(d.multiply(beyond, hidden))
    return sheet


def swaps_neighbours(plan: DecoderPlan, schemes: Mapping[str, Scheme]) -> bool:
    """Whether the rows of the embedding's look-up have each two neighbours swapped."""
    return swaps(schemes, plan.sources[EMBEDDING], plan.tied)


def changes(plan: DecoderPlan, schemes: Mapping[str, Scheme]) -> bool:
    """Whether the look-up's rows are not the stream yet: swapped, to be scaled, or added to."""
    scaled = plan.embedding_scale != 1
    return scaled or plan.family.positions or swaps_neighbours(plan, schemes)


def first(sheet: DecoderSheet) -> DecoderSheet:
    """stream, its positions' rows, rotary rows -> cos and sin of whole heads, q, k, v of layer 0.

    Where the look-up's rows are not the stream yet (see `changes`), that comes first.
    """
    d, plan = sheet.delegate, sheet.plan
    stream = sheet.input(_width(sheet))
    places = [sheet.input(_width(sheet))] if plan.family.positions else []
    rows = [sheet.input(1, one.size) for one in plan.rotaries]
    tables = [whole_heads(sheet, one) for one in rows]
    given = stream
    if swaps_neighbours(plan, sheet.schemes):
        stream = unswapped(sheet, stream)
    if plan.embedding_scale != 1:
        stream = sheet.times(stream, STREAM, plan.embedding_scale)
    for one in places:
        stream = d.add(stream, one)
    if stream != given:
        d.output(stream)
    for pair in tables:
        d.output(pair[0])
        d.output(pair[1])
    turn = plan.turns[0]
    for value in _qkv(sheet, 0, stream, tables[turn] if turn >= 0 else None):
        d.output(value)
    return sheet


def middle(sheet: DecoderSheet, layer: int) -> DecoderSheet:
    """attended, stream, the next layer's cos and sin -> stream, and its q, k, v."""
    d, plan = sheet.delegate, sheet.plan
    attended = sheet.input(plan.heads, plan.head_size)
    stream = sheet.input(_width(sheet))
    tables: Tables | None = None
    if (turn := plan.turns[layer + 1]) >= 0:
        size = plan.rotaries[turn].size
        tables = sheet.input(1, size), sheet.input(1, size)
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
    logits = product(sheet, [head.removesuffix(".weight")], normed)
    if plan.logits_scale != 1:
        logits = sheet.times(logits, LOGITS, plan.logits_scale)
    sheet.delegate.output(logits)
    return sheet


def _width(sheet: DecoderSheet) -> int:
    return sheet.model.weights.infos[sheet.source(EMBEDDING)].shape[1]


def _norm(sheet: DecoderSheet, name: str, value: int) -> int:
    """RMSNorm over the last dimension, or layer normalization where the family has that."""
    if sheet.plan.family.centred:
        return layer_norm(sheet, name.removesuffix(".weight"), value, sheet.plan.epsilon)
    weight = _norm_weight(sheet, name, len(sheet.delegate.shape(value)))
    return root_mean_square(sheet, value, weight, sheet.plan.epsilon)


def _norm_weight(sheet: DecoderSheet, name: str, dims: int) -> int:
    """What a norm multiplies with, as [1, ..., width]."""
    source = sheet.source(name)
    width = sheet.model.weights.infos[source].shape[-1]
    known = source in sheet.stored
    values = [] if known else [sheet.plan.norm_weight(sheet.model, source)]
    return sheet.floats(source, (*[1] * (dims - 1), width), *values)


def _left(sheet: DecoderSheet, norm: str, value: int) -> int:
    """What a block adds to the stream: its output, normalized or scaled as the family does."""
    value = _norm(sheet, f"{norm}.weight", value) if norm else value
    factor = sheet.plan.residual_scale
    return value if factor == 1 else sheet.times(value, RESIDUAL, factor)


def _qkv(sheet: DecoderSheet, layer: int, stream: int, tables: Tables | None) -> list[int]:
    """q, k, v [1, tokens, heads, size], q and k rotated where there are tables, q scaled."""
    d, plan, start = sheet.delegate, sheet.plan, f"model.layers.{layer}."
    normed = _norm(sheet, f"{start}{plan.norms.into_attention}.weight", stream)
    if plan.family.fused:
        return _cut_qkv(sheet, product(sheet, [start + FUSED_QKV], normed), tables)
    found: dict[str, int] = {}
    for group in joinable([start + name for name in QKV], sheet.sources, sheet.schemes):
        joined = product(sheet, group, normed)
        heads = d.reshape(joined, 1, 0, _heads(sheet, group), plan.head_size)
        kept = [name for name in group if not name.endswith(QKV[2])]
        if kept != group:
            at, count = _heads(sheet, kept), plan.kv_heads
            found[group[-1]] = d.cut(heads, 2, at, count) if kept else heads
            heads = d.cut(heads, 2, 0, at) if kept else heads
        if kept and plan.family.head_norms:
            for name, part in _cut_heads(sheet, kept, heads).items():
                norm = HEAD_NORMS[name.endswith(QKV[1])]
                normed_heads = _norm(sheet, f"{start}{norm}.weight", part)
                found[name] = _rotated(sheet, normed_heads, tables)
        elif kept:
            found |= _cut_heads(sheet, kept, _rotated(sheet, heads, tables))
    found[start + QKV[0]] = _scaled(sheet, found[start + QKV[0]])
    return [found[start + name] for name in QKV]


def _cut_qkv(sheet: DecoderSheet, joined: int, tables: Tables | None) -> list[int]:
    """q, k and v of one product; q and k turn together."""
    d, (count, keys, values) = sheet.delegate, sheet.plan.head_counts
    heads = d.reshape(joined, 1, 0, count + keys + values, sheet.plan.head_size)
    turned = _rotated(sheet, d.cut(heads, 2, 0, count + keys), tables)
    q, k = d.cut(turned, 2, 0, count), d.cut(turned, 2, count, keys)
    return [_scaled(sheet, q), k, d.cut(heads, 2, count + keys, values)]


def _scaled(sheet: DecoderSheet, query: int) -> int:
    """What the attention's own 1 / sqrt(head size) leaves to be multiplied."""
    factor = sheet.plan.attention_scale * sheet.plan.head_size**0.5
    if math.isclose(factor, 1):
        return query
    return sheet.times(query, QUERY, factor)


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


def _rotated(sheet: DecoderSheet, heads: int, tables: Tables | None) -> int:
    """Turned by the tables; x where there are none, or beyond them."""
    if tables is None:
        return heads
    d, size = sheet.delegate, sheet.delegate.shape(tables[0])[-1]
    if rest := sheet.plan.head_size - size:
        part = turned(sheet, d.cut(heads, 3, 0, size), tables)
        return d.join(part, d.cut(heads, 3, size, rest))
    return turned(sheet, heads, tables)


def _rest(sheet: DecoderSheet, layer: int, attended: int, stream: int) -> int:
    """A layer after its attention: output projection, residual, MLP (gated or not), residual."""
    d, plan, start = sheet.delegate, sheet.plan, f"model.layers.{layer}."
    flat = d.reshape(attended, 1, 0, plan.heads * plan.head_size)
    norms = plan.norms
    out, down = ((start + name) * bool(name) for name in (norms.out_of_attention, norms.out_of_mlp))
    stream = d.add(stream, _left(sheet, out, product(sheet, [start + OUT], flat)))
    normed = _norm(sheet, f"{start}{norms.into_mlp}.weight", stream)
    before, *gated = _gate_up(sheet, start, normed)
    hidden = activated(sheet, plan.activation, before)
    for up in gated:
        hidden = d.multiply(hidden, up)
    return d.add(stream, _left(sheet, down, product(sheet, [start + DOWN], hidden)))


def _gate_up(sheet: DecoderSheet, start: str, normed: int) -> Sequence[int]:
    made = products(sheet, [start + name for name in sheet.plan.gate_up], normed)
    if len(made) == 2 or not sheet.plan.family.gated:
        return made
    d, inner = sheet.delegate, sheet.delegate.shape(made[0])[-1] // 2
    return [d.cut(made[0], 2, at, inner) for at in (0, inner)]
