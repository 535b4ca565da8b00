"""A decoder written by ourselves: XNNPACK subgraphs around ExecuTorch's attention operator.

Between two attentions everything is one subgraph: the rest of a layer and the beginning of the
next one. Of the model one tensor at a time is in memory.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from executorch.exir.scalar_type import ScalarType

from edgecompile.backends import schemes_of
from edgecompile.backends.decoders import EMBEDDING, POSITION_TABLE, DecoderPlan
from edgecompile.backends.executorch_graph.blocks import (
    POSITIONS,
    DecoderSheet,
    changes,
    first,
    last,
    middle,
    swaps_neighbours,
    window,
)
from edgecompile.backends.executorch_graph.embedding import look_up
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile, Stored
from edgecompile.backends.executorch_graph.sheet import Sheet
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Progress

METHOD, ROTARY = "forward", "rotary"
FLOAT, LONG = ScalarType.FLOAT, ScalarType.LONG


@dataclass(frozen=True)
class Shape:
    """Positions in the cache; tokens and rows of logits in one call, at most."""

    context: int
    tokens: int
    rows: int


@dataclass
class Canvas:
    """What all parts of the drawing share."""

    model: Model
    plan: DecoderPlan
    shape: Shape
    file: PteFile
    schemes: dict[str, Scheme]
    method: Method = field(default_factory=lambda: Method(METHOD))
    stored: dict[str, Stored] = field(default_factory=dict)

    def buffer(self, *tail: int, rows: int = 0) -> int:
        """float32 [1, tokens, ...] in planned memory, or with other `rows` than the tokens."""
        return self.method.buffer(FLOAT, 1, rows or self.shape.tokens, *tail)

    def subgraph(self, sheet: Sheet, arguments: Sequence[int]) -> None:
        """Call what a sheet draws, with the method's values for its inputs and outputs."""
        segment = self.file.delegate(sheet.delegate.serialize())
        self.method.delegate(segment, *arguments)


def write(model: Model, plan: DecoderPlan, shape: Shape, folder: Path, progress: Progress) -> None:
    """Write model.pte: `forward(input_ids, start, first)` gives logits from row `first` on."""
    canvas = Canvas(model, plan, shape, PteFile(folder), schemes_of(model))
    _draw(canvas, progress)
    canvas.file.finish([canvas.method.plan()])


def _draw(canvas: Canvas, progress: Progress) -> None:
    method, plan = canvas.method, canvas.plan
    ids = method.input(LONG, 1, canvas.shape.tokens)
    start, begin = (_scalar(method, method.input(LONG, 1)) for _ in range(2))
    count, end = method.number(), method.number()
    method.call("aten::sym_size.int", ids, method.scalar(1), count)
    method.call("executorch_prim::add.Scalar", start, count, end)
    stream, other = (canvas.buffer(_width(canvas)) for _ in range(2))
    source = canvas.plan.sources[EMBEDDING]
    swapped = swaps_neighbours(plan, canvas.schemes)
    canvas.stored |= look_up(
        method, canvas.file, canvas.model, source, (ids, stream), as_linear=swapped
    )
    masks = _windows(canvas, start, end)
    rows = [_position_rows(canvas, start, end)] if plan.family.positions else []
    rows += [_rotary_rows(canvas, number, start, end) for number in range(len(plan.rotaries))]
    tables = [[canvas.buffer(1, one.size) for _ in range(2)] for one in plan.rotaries]
    q, mixed = (canvas.buffer(plan.heads, plan.head_size) for _ in range(2))
    k, v = (canvas.buffer(plan.kv_heads, plan.head_size) for _ in range(2))
    made = [table for pair in tables for table in pair]
    changed = [other] if changes(plan, canvas.schemes) else []
    canvas.subgraph(first(_sheet(canvas)), [stream, *rows, *changed, *made, q, k, v])
    stream, other = (other, stream) if changed else (stream, other)
    for layer in range(plan.layers):
        progress("write file", layer, plan.layers)
        mask = masks.get(plan.windows[layer])
        _attend(canvas, [q, k, v], (start, count), mask, mixed)
        if layer + 1 < plan.layers:
            drawn, turn = middle(_sheet(canvas), layer), plan.turns[layer + 1]
            turned = tables[turn] if turn >= 0 else []
            canvas.subgraph(drawn, [mixed, stream, *turned, other, q, k, v])
            stream, other = other, stream
    mixed = _rows(canvas, mixed, (begin, count), (plan.heads, plan.head_size))
    stream = _rows(canvas, stream, (begin, count), (_width(canvas),))
    logits = canvas.buffer(plan.vocabulary, rows=canvas.shape.rows)
    canvas.subgraph(last(_sheet(canvas, canvas.shape.rows)), [mixed, stream, logits])
    method.output(logits)
    progress("write file", plan.layers, plan.layers)


def _sheet(canvas: Canvas, rows: int = 0) -> DecoderSheet:
    return DecoderSheet(
        model=canvas.model, sources=canvas.plan.sources, schemes=canvas.schemes, file=canvas.file,
        stored=canvas.stored, tokens=rows or canvas.shape.tokens, plan=canvas.plan,
    )  # fmt: skip


def _scalar(method: Method, tensor: int) -> int:
    value = method.number()
    method.call("aten::_local_scalar_dense", tensor, value)
    return value


def _width(canvas: Canvas) -> int:
    return canvas.model.weights.infos[canvas.plan.sources[EMBEDDING]].shape[1]


def _position_rows(canvas: Canvas, start: int, end: int) -> int:
    """float32 [1, tokens, width]: the table's rows of the positions."""
    method, source = canvas.method, canvas.plan.sources[POSITION_TABLE]
    values = canvas.model.dense(source)
    at, canvas.stored[source] = canvas.file.constant(source, values)
    table, one = method.constant(FLOAT, (1, *values.shape), at, source), method.scalar(1)
    rows = canvas.buffer(_width(canvas))
    method.call("aten::slice_copy.Tensor_out", table, one, start, end, one, rows)
    return rows


def _rotary_rows(canvas: Canvas, number: int, start: int, end: int) -> int:
    """cos and sin [1, tokens, 1, half of what turns] of the positions, side by side."""
    plan, method, context = canvas.plan, canvas.method, canvas.shape.context
    rotary, label = plan.rotaries[number], f"{ROTARY}.{number}" if number else ROTARY
    both = np.concatenate([rotary.cos[:context], rotary.sin[:context]], axis=1)
    at, _ = canvas.file.constant(label, both)
    table = method.constant(FLOAT, (1, context, 1, rotary.size), at, label)
    rows, one = canvas.buffer(1, rotary.size), method.scalar(1)
    method.call("aten::slice_copy.Tensor_out", table, one, start, end, one, rows)
    return rows


def _windows(canvas: Canvas, start: int, end: int) -> dict[int, int]:
    """By window: a value float32 [tokens, context] that hides what is outside of it.

    A window as long as the cache hides nothing. The operator then computes with the whole cache,
    which begins as zeros.
    """
    method, context, tokens = canvas.method, canvas.shape.context, canvas.shape.tokens
    one, found = method.scalar(1), dict[int, int]()
    for width in sorted({w for w in canvas.plan.windows if 0 < w < context}):
        at, _ = canvas.file.constant(POSITIONS, np.arange(context, dtype=np.float32)[:, None])
        table = method.constant(FLOAT, (context, 1), at, POSITIONS)
        rows, found[width] = (method.buffer(FLOAT, tokens, size) for size in (1, context))
        zero = method.scalar(0)
        method.call("aten::slice_copy.Tensor_out", table, zero, start, end, one, rows)
        canvas.subgraph(window(_sheet(canvas), context, width), [rows, found[width]])
    return found


def _attend(
    canvas: Canvas, qkv: Sequence[int], span: tuple[int, int], mask: int | None, mixed: int
) -> None:
    """Put k and v into this layer's cache, then softmax(q k / sqrt(size)) v of what is seen."""
    method, plan = canvas.method, canvas.plan
    shape = (1, canvas.shape.context, plan.kv_heads, plan.head_size)
    caches = [method.buffer(FLOAT, *shape, fixed=True) for _ in range(2)]
    none, zero, causal = method.scalar(None), method.scalar(0.0), method.scalar(mask is None)
    given = none if mask is None else mask
    method.call(
        "llama::sdpa_with_kv_cache.out", *qkv, *caches, *span, given, zero, causal, none, mixed
    )


def _rows(canvas: Canvas, value: int, span: tuple[int, int], tail: tuple[int, ...]) -> int:
    """The rows of a value from one to another."""
    rows, one = canvas.buffer(*tail, rows=canvas.shape.rows), canvas.method.scalar(1)
    canvas.method.call("aten::slice_copy.Tensor_out", value, one, *span, one, rows)
    return rows
