"""A decoder's graph written by ourselves with opset13, in the patterns that the CPU plug-in fuses.

RMSNorm, rotary embedding, attention with a KV cache that is the graph's state (ReadValue, Gather by
beam_idx, Concat, Assign), products on compressed weights. Of the weights one is in memory at a
time: constants are mapped from a scratch file until the graph is written.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import assign, read_value
from openvino.op import util as states

from edgecompile.backends import schemes_of
from edgecompile.backends.decoders import (
    DOWN,
    EMBEDDING,
    HEAD,
    HEAD_NORMS,
    NORM,
    OUT,
    POSITION_TABLE,
    QKV,
    DecoderPlan,
    Rotary,
)
from edgecompile.backends.openvino_graph.canvas import LAST_TOKENS, Canvas, Value
from edgecompile.backends.openvino_graph.compressed import Constants, constant, named
from edgecompile.model import Model
from edgecompile.passes import Progress

LOWEST = float(np.finfo(np.float32).min)  # of a masked score; -inf gives NaN in a masked row
END = int(np.iinfo(np.int64).max)
HEADS_FIRST = (0, 2, 1, 3)  # [batch, length, heads, size] <-> [batch, heads, length, size]
FREQUENCIES, SPLIT = "rope.frequencies", ".heads"


def draw(
    model: Model, plan: DecoderPlan, constants: Constants, progress: Progress
) -> ov.Model:
    """The graph from token ids to logits float32 [batch, last_tokens, vocabulary].

    input_ids and position_ids int64 [batch, length], attention_mask int64 [batch, past + length],
    beam_idx int32 [batch], last_tokens int64 [1]. `constants` must outlive the graph.
    """
    canvas = Canvas(model, plan, constants, schemes_of(model))
    _prepare(canvas)
    table = canvas.weight([EMBEDDING.removesuffix(".weight")])
    stream = named(ops.gather(table, canvas.inputs["input_ids"], canvas.ints(0)), "embedding")
    stream = _times(canvas, stream, plan.embedding_scale)
    if plan.family.positions:
        positions, axis = canvas.inputs["position_ids"], canvas.ints(0)
        stream = ops.add(stream, ops.gather(canvas.floats(POSITION_TABLE), positions, axis))
    for layer in range(plan.layers):
        progress("draw graph", layer, plan.layers)
        start, norms = f"model.layers.{layer}.", plan.norms
        mixed = _attention(canvas, layer, canvas.norm(start + norms.into_attention, stream))
        stream = ops.add(stream, _left(canvas, start, norms.out_of_attention, mixed))
        mixed = _mlp(canvas, start, canvas.norm(start + norms.into_mlp, stream))
        stream = ops.add(stream, _left(canvas, start, norms.out_of_mlp, mixed))
    progress("draw graph", plan.layers, plan.layers)
    logits = _head(canvas, canvas.norm(NORM.removesuffix(".weight"), stream))
    logits.output(0).set_names({"logits"})
    return ov.Model([ops.result(logits)], canvas.sinks, list(canvas.inputs.values()), "decoder")


def _left(canvas: Canvas, start: str, norm: str, value: Value) -> Value:
    """What a block adds to the stream: its output, normalized or scaled as the family does."""
    value = canvas.norm(start + norm, value) if norm else value
    return _times(canvas, value, canvas.plan.residual_scale)


def _times(canvas: Canvas, value: Value, factor: float) -> Value:
    """A value times a number; itself where that is 1."""
    return value if factor == 1 else ops.multiply(value, canvas.number(factor))


def _capped(canvas: Canvas, value: Value, cap: float) -> Value:
    """cap tanh(value / cap) (Gemma 2, section 2); itself where the cap is 0."""
    if not cap:
        return value
    return ops.multiply(ops.tanh(_times(canvas, value, 1 / cap)), canvas.number(cap))


def _prepare(canvas: Canvas) -> None:
    """Sizes, rotary tables, masks and the empty cache, computed once a call for all layers."""
    plan, shared = canvas.plan, canvas.shared
    shared["batch"] = _size(canvas, "input_ids", 0)
    shared["length"] = _size(canvas, "input_ids", 1)
    shared["total"] = _size(canvas, "attention_mask", 1)
    for number, rotary in enumerate(plan.rotaries):
        shared[f"cos {number}"], shared[f"sin {number}"] = _rotary(canvas, rotary, number)
    for window in sorted(set(plan.windows)):
        shared[f"mask {window}"] = _mask(canvas, window)
    rest = canvas.ints([plan.kv_heads, 0, plan.head_size])
    shape = ops.concat([shared["batch"], rest], 0)
    shared["past"] = named(ops.broadcast(canvas.number(0), shape), "past")


def _size(canvas: Canvas, name: str, axis: int) -> ov.Node:
    """One entry of an input's shape, int64 [1]."""
    shape = ops.shape_of(canvas.inputs[name])
    return ops.gather(shape, canvas.ints([axis]), canvas.ints(0))


def _rotary(canvas: Canvas, rotary: Rotary, number: int) -> list[ov.Node]:
    """cos and sin float32 [batch, 1, length, head size] of the positions (Su et al. 2021)."""
    positions = ops.convert(canvas.inputs["position_ids"], ov.Type.f32)
    column = ops.unsqueeze(positions, canvas.ints([1, 3]))
    label = f"{FREQUENCIES}.{number}" if number else FREQUENCIES
    row = constant(rotary.frequencies[None, None, None], label)
    half = ops.multiply(column, row)
    whole = ops.concat([half, half], 3)
    tables = [ops.cos(whole), ops.sin(whole)]
    if rotary.factor != 1.0:
        factor = canvas.number(rotary.factor)
        tables = [ops.multiply(table, factor) for table in tables]
    return tables


def _mask(canvas: Canvas, window: int) -> ov.Node:
    """float32 [batch, 1, length, total]: 0 where a token sees one of the cache, else LOWEST.

    It sees itself and what is before it, the last `window` of them alone (-1: all), and nothing
    where attention_mask is 0. Padding may stand before a text: places count, not positions.
    """
    shared, zero = canvas.shared, canvas.ints(0)
    total = ops.squeeze(shared["total"], zero)
    before = ops.squeeze(ops.subtract(shared["total"], shared["length"]), zero)
    keys = ops.range(zero, total, canvas.ints(1), ov.Type.i64)
    queries = ops.range(before, total, canvas.ints(1), ov.Type.i64)
    queries = ops.unsqueeze(queries, canvas.ints([1]))
    seen = ops.less_equal(keys, queries)
    if window >= 0:
        first = ops.subtract(queries, canvas.ints(window))
        seen = ops.logical_and(seen, ops.greater(keys, first))
    real = ops.not_equal(canvas.inputs["attention_mask"], zero)
    seen = ops.logical_and(seen, ops.unsqueeze(real, canvas.ints([1, 2])))
    return named(ops.select(seen, canvas.number(0), canvas.number(LOWEST)), f"mask {window}")


def _attention(canvas: Canvas, layer: int, normed: Value) -> Value:
    plan, start, shared = canvas.plan, f"model.layers.{layer}.", canvas.shared
    counts = plan.head_counts
    parts = _parts(canvas, start, plan.qkv, normed, [n * plan.head_size for n in counts])
    names = [start + name for name in QKV]
    q, k, v = (_split(canvas, *each) for each in zip(parts, counts, names, strict=True))
    if plan.family.head_norms:
        q, k = (canvas.norm(start + n, x) for n, x in zip(HEAD_NORMS, (q, k), strict=True))
    q, k, v = (ops.transpose(value, canvas.ints(HEADS_FIRST)) for value in (q, k, v))
    q, k = (_rotated(canvas, value, plan.turns[layer]) for value in (q, k))
    k = _repeated(canvas, _cached(canvas, k, f"layer.{layer}.key"))
    v = _repeated(canvas, _cached(canvas, v, f"layer.{layer}.value"))
    mask = shared[f"mask {plan.windows[layer]}"]
    mixed = named(_attended(canvas, q, k, v, mask), f"{start}self_attn")
    mixed = ops.transpose(mixed, canvas.ints(HEADS_FIRST))
    joined = ops.reshape(mixed, canvas.ints([0, 0, plan.heads * plan.head_size]), True)
    return canvas.products([start + OUT], joined)[0]


def _parts(
    canvas: Canvas, start: str, names: Sequence[str], value: Value, sizes: Sequence[int]
) -> list[Value]:
    """A product each, or one that is cut into these sizes."""
    made = canvas.products([start + name for name in names], value)
    if len(made) == len(sizes):
        return made
    return list(ops.variadic_split(made[0], canvas.ints(-1), canvas.ints(sizes)).outputs())


def _attended(canvas: Canvas, q: Value, k: Value, v: Value, mask: Value) -> ov.Node:
    """softmax(q k scale + mask) v; the operator's own scale is 1 / sqrt(head size).

    It has no cap on scores: where there is one, attention is drawn in full.
    """
    scale, cap = canvas.plan.attention_scale, canvas.plan.attention_cap
    if cap:
        scores = ops.matmul(_times(canvas, q, scale), k, False, True)
        seen = ops.softmax(ops.add(_capped(canvas, scores, cap), mask), 3)
        return ops.matmul(seen, v, False, False)
    if math.isclose(scale, canvas.plan.head_size**-0.5):
        return ops.scaled_dot_product_attention(q, k, v, mask)
    return ops.scaled_dot_product_attention(q, k, v, mask, canvas.number(scale))


def _split(canvas: Canvas, value: Value, heads: int, name: str) -> ov.Node:
    shape = canvas.ints([0, 0, heads, canvas.plan.head_size])
    return named(ops.reshape(value, shape, True), name + SPLIT)


def _rotated(canvas: Canvas, value: Value, turn: int) -> Value:
    """x cos + (-x2, x1) sin, x1 and x2 the halves of each head; as it is where `turn` is -1."""
    if turn < 0:
        return value
    size = canvas.plan.rotaries[turn].size
    if size < canvas.plan.head_size:
        sizes = canvas.ints([size, canvas.plan.head_size - size])
        turned, rest = ops.variadic_split(value, canvas.ints(3), sizes).outputs()
        return ops.concat([_turned(canvas, turned, turn), rest], -1)
    return _turned(canvas, value, turn)


def _turned(canvas: Canvas, value: Value, turn: int) -> ov.Node:
    half = canvas.plan.rotaries[turn].size // 2
    first, second = ops.variadic_split(value, canvas.ints(3), canvas.ints([half, half])).outputs()
    turned = ops.concat([ops.multiply(second, canvas.number(-1)), first], -1)
    straight = ops.multiply(value, canvas.shared[f"cos {turn}"])
    return ops.add(straight, ops.multiply(turned, canvas.shared[f"sin {turn}"]))


def _cached(canvas: Canvas, value: Value, name: str) -> ov.Node:
    """The state's past [batch, kv heads, past, size] and the new keys or values after it."""
    shape: Sequence[int] = [-1, canvas.plan.kv_heads, -1, canvas.plan.head_size]
    info = states.VariableInfo()
    info.data_shape, info.data_type = ov.PartialShape(shape), ov.Type.f32
    info.variable_id = name
    variable = states.Variable(info)
    past = named(read_value(canvas.shared["past"], variable), name)
    chosen = ops.gather(past, canvas.inputs["beam_idx"], canvas.ints(0))
    present = ops.concat([chosen, value], 2)
    canvas.sinks.append(named(assign(present, variable), f"{name}.new"))
    return present


def _repeated(canvas: Canvas, value: Value) -> Value:
    """Each key and value head once for every query head that shares it.

    By a product with ones: the plug-in fuses that into its attention, and not a Broadcast.
    """
    plan, shared = canvas.plan, canvas.shared
    times = plan.heads // plan.kv_heads
    if times == 1:
        return value
    if "repeat" not in shared:
        shared["repeat"] = constant(np.ones((1, 1, times, 1, 1), np.float32), "repeat")
    wide = ops.multiply(ops.unsqueeze(value, canvas.ints([2])), shared["repeat"])
    return ops.reshape(wide, canvas.ints([0, plan.heads, -1, plan.head_size]), True)


def _mlp(canvas: Canvas, start: str, normed: Value) -> Value:
    """A gated MLP (Shazeer 2020): down(activation(gate(x)) * up(x)); or down(activation(up(x)))."""
    plan = canvas.plan
    down = plan.sources[f"{start}{DOWN}.weight"]
    inner = canvas.model.weights.infos[down].shape[1]
    sizes = [inner] * (2 if plan.family.gated else 1)
    first, *gated = _parts(canvas, start, plan.gate_up, normed, sizes)
    active = ops.gelu(first, "tanh") if plan.activation == "gelu_tanh" else ops.swish(first)
    for up in gated:
        active = ops.multiply(active, up)
    return canvas.products([start + DOWN], active)[0]


def _head(canvas: Canvas, normed: Value) -> ov.Node:
    """Logits of the last positions alone, as many as `last_tokens` says."""
    first = ops.negative(canvas.inputs[LAST_TOKENS])
    one = canvas.ints([1])
    kept = ops.slice(normed, first, canvas.ints([END]), one, one)
    name = (EMBEDDING if canvas.plan.tied else HEAD).removesuffix(".weight")
    plan = canvas.plan
    if plan.logits_scale == 1 and not plan.logits_cap:
        return canvas.product([name], kept, "logits")
    found = _times(canvas, canvas.product([name], kept, "logits.product"), plan.logits_scale)
    return named(_capped(canvas, found, plan.logits_cap), "logits")
