"""What stands between two attentions of a decoder, drawn as subgraphs for XNNPACK.

RMSNorm: Zhang & Sennrich 2019; SwiGLU: Shazeer 2020; rotary positions: Su et al. 2021.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgecompile.backends.executorch_graph import encode
from edgecompile.backends.executorch_graph.delegate import NONE, Delegate
from edgecompile.backends.executorch_graph.pte import PteFile, Stored
from edgecompile.backends.onnx_graph.decoder_plan import (
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
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme

JOIN = "|"  # between source names whose rows one product has
MEAN, EPSILON = "mean", "epsilon"


@dataclass
class Sheet:
    """One subgraph while it is drawn, and where its weights come from and go."""

    model: Model
    plan: DecoderPlan
    schemes: dict[str, Scheme]
    file: PteFile
    stored: dict[str, Stored]  # by source name, with `.codes` or `.scales`
    tokens: int
    delegate: Delegate = field(default_factory=Delegate)
    quantized: dict[int, int] = field(default_factory=dict)  # value -> its int8 form

    def input(self, *tail: int) -> int:
        """float32 [1, tokens, ...]."""
        return self.delegate.input(1, self.tokens, *tail)

    def source(self, name: str) -> str:
        """The source's name of a tensor; empty if the model has none."""
        return self.plan.sources.get(name, "")

    def rows(self, name: str) -> int:
        """Rows of a weight: what its product puts out."""
        return self.model.weights.infos[self.source(name)].shape[0]

    def floats(self, label: str, shape: Sequence[int], *parts: np.ndarray) -> int:
        """A float32 constant; one of that name in another subgraph is the same."""
        if label not in self.stored:
            self.stored[label] = self.file.named(label, *parts)
        stored = self.stored[label]
        return self.delegate.constant(stored.key, shape, stored.size)


def first(sheet: Sheet) -> Sheet:
    """stream, rotary rows -> cos, sin, and q, k, v of layer 0.

    cos and sin are whole heads here: sin's first half is negative (see `_rotated`).
    """
    d, size = sheet.delegate, sheet.plan.head_size
    stream = sheet.input(_width(sheet))
    rows = sheet.input(1, size)
    cos, sin = (d.cut(rows, 3, start, size // 2) for start in (0, size // 2))
    tables = d.join(cos, cos), d.join(d.negate(sin), sin)
    for value in (*tables, *_qkv(sheet, 0, stream, tables)):
        d.output(value)
    return sheet


def middle(sheet: Sheet, layer: int) -> Sheet:
    """attended, stream, cos, sin -> stream after this layer, and q, k, v of the next one."""
    d, plan = sheet.delegate, sheet.plan
    attended = sheet.input(plan.heads, plan.head_size)
    stream = sheet.input(_width(sheet))
    tables = sheet.input(1, plan.head_size), sheet.input(1, plan.head_size)
    stream = _rest(sheet, layer, attended, stream)
    for value in (stream, *_qkv(sheet, layer + 1, stream, tables)):
        d.output(value)
    return sheet


def last(sheet: Sheet) -> Sheet:
    """attended, stream of some rows -> their logits."""
    plan = sheet.plan
    attended = sheet.input(plan.heads, plan.head_size)
    stream = _rest(sheet, plan.layers - 1, attended, sheet.input(_width(sheet)))
    head = EMBEDDING if plan.tied else HEAD
    normed = _norm(sheet, NORM, stream)
    sheet.delegate.output(_product(sheet, [head.removesuffix(".weight")], normed))
    return sheet


def _width(sheet: Sheet) -> int:
    return sheet.model.weights.infos[sheet.source(EMBEDDING)].shape[1]


def _norm(sheet: Sheet, name: str, value: int) -> int:
    """RMSNorm over the last dimension; the mean of squares is a product with 1 / width."""
    d, width = sheet.delegate, sheet.delegate.shape(value)[-1]
    share = np.full((1, width), 1 / width, np.float32)
    weights = sheet.floats(f"{MEAN}.{width}", (1, width), share)
    epsilon = sheet.floats(EPSILON, (1,), np.array([sheet.plan.epsilon], np.float32))
    mean = d.linear(d.multiply(value, value), weights, epsilon)
    scaled = d.multiply(value, d.inverse_root(mean))
    shape = (*[1] * (len(d.shape(value)) - 1), width)
    source = sheet.source(name)
    return d.multiply(scaled, sheet.floats(source, shape, sheet.model.dense(source)))


def _qkv(sheet: Sheet, layer: int, stream: int, tables: tuple[int, int]) -> list[int]:
    """q, k, v [1, tokens, heads, size], q and k rotated."""
    d, plan, start = sheet.delegate, sheet.plan, f"model.layers.{layer}."
    normed = _norm(sheet, f"{start}{NORMS[0]}.weight", stream)
    found: dict[str, int] = {}
    for group in _groups(sheet, [start + name for name in QKV]):
        heads = d.reshape(_product(sheet, group, normed), 1, 0, _heads(sheet, group), plan.head_size)
        kept = [name for name in group if not name.endswith(QKV[2])]
        if kept != group:
            at, count = _heads(sheet, kept), plan.kv_heads
            found[group[-1]] = d.cut(heads, 2, at, count) if kept else heads
            heads = d.cut(heads, 2, 0, at) if kept else heads
        if kept and plan.head_norms:
            parts = _cut_heads(sheet, kept, heads)
            for name, norm in zip(kept, HEAD_NORMS[-len(kept) :], strict=True):
                parts[name] = _rotated(d, _norm(sheet, f"{start}{norm}.weight", parts[name]), tables)
            found |= parts
        elif kept:
            found |= _cut_heads(sheet, kept, _rotated(d, heads, tables))
    return [found[start + name] for name in QKV]


def _heads(sheet: Sheet, names: Sequence[str]) -> int:
    rows = sum(sheet.rows(f"{name}.weight") for name in names)
    return rows // sheet.plan.head_size


def _cut_heads(sheet: Sheet, names: Sequence[str], heads: int) -> dict[str, int]:
    """A joint value [1, tokens, heads, size] by the names of its parts."""
    if len(names) == 1:
        return {names[0]: heads}
    found, start = {}, 0
    for name in names:
        count = _heads(sheet, [name])
        found[name] = sheet.delegate.cut(heads, 2, start, count)
        start += count
    return found


def _rotated(d: Delegate, heads: int, tables: tuple[int, int]) -> int:
    """x cos + (second half, first half) sin, where sin's first half has the minus."""
    half = d.shape(heads)[-1] // 2
    swapped = d.join(d.cut(heads, 3, half, half), d.cut(heads, 3, 0, half))
    return d.add(d.multiply(heads, tables[0]), d.multiply(swapped, tables[1]))


def _rest(sheet: Sheet, layer: int, attended: int, stream: int) -> int:
    """A layer after its attention: output projection, residual, SwiGLU, residual."""
    d, plan, start = sheet.delegate, sheet.plan, f"model.layers.{layer}."
    flat = d.reshape(attended, 1, 0, plan.heads * plan.head_size)
    stream = d.add(stream, _product(sheet, [start + OUT], flat))
    normed = _norm(sheet, f"{start}{NORMS[1]}.weight", stream)
    gate, up = _products(sheet, [start + name for name in GATE_UP], normed)
    hidden = d.multiply(d.multiply(gate, d.sigmoid(gate)), up)
    return d.add(stream, _product(sheet, [start + DOWN], hidden))


def _products(sheet: Sheet, names: Sequence[str], value: int) -> list[int]:
    """A product a name; weights on one scheme are one product, cut afterwards."""
    found = []
    for group in _groups(sheet, names):
        joined, start = _product(sheet, group, value), 0
        for name in group:
            rows = sheet.rows(f"{name}.weight")
            axis = len(sheet.delegate.shape(joined)) - 1
            cut = len(group) > 1
            found.append(sheet.delegate.cut(joined, axis, start, rows) if cut else joined)
            start += rows
    return found


def _groups(sheet: Sheet, names: Sequence[str]) -> list[list[str]]:
    """Runs of weights that have codes on one scheme, and all or none a bias."""
    groups: list[list[str]] = []
    before = None
    for name in names:
        scheme = sheet.schemes.get(sheet.source(f"{name}.weight"))
        kind = scheme and (scheme, bool(sheet.source(f"{name}.bias")))
        if kind and kind == before:
            groups[-1].append(name)
        else:
            groups.append([name])
        before = kind
    return groups


def _product(sheet: Sheet, names: Sequence[str], value: int) -> int:
    """value times the rows of all named weights, with their biases."""
    sources = [sheet.source(f"{name}.weight") for name in names]
    biases = [source for name in names if (source := sheet.source(f"{name}.bias"))]
    rows = sum(sheet.rows(f"{name}.weight") for name in names)
    bias = NONE
    if biases:
        parts = [sheet.model.dense(name) for name in biases]
        bias = sheet.floats(JOIN.join(biases), (rows,), *parts)
    if sources[0] not in sheet.schemes:
        shape = sheet.model.weights.infos[sources[0]].shape
        known = sources[0] in sheet.stored
        values = [] if known else [sheet.model.dense(sources[0])]
        if known:
            sheet.file.name(sheet.stored[sources[0]])
        return sheet.delegate.linear(value, sheet.floats(sources[0], shape, *values), bias)
    if value not in sheet.quantized:
        sheet.quantized[value] = sheet.delegate.quantize(value)
    weight = _weight(sheet, sources, rows)
    return sheet.delegate.linear(sheet.quantized[value], weight, bias)


def _weight(sheet: Sheet, sources: Sequence[str], rows: int) -> int:
    """Codes and scales of the sources' rows, one below the other; a tied tensor's are there."""
    label, scheme = JOIN.join(sources), sheet.schemes[sources[0]]
    columns = sheet.model.weights.infos[sources[0]].shape[1]
    places = []
    if f"{label}.codes" in sheet.stored and (scheme.bits, scheme.group_size) == (8, 0):
        places = [sheet.file.name(sheet.stored[f"{label}{end}"]) for end in (".codes", ".scales")]
    else:
        arrays = [encode.linear(sheet.model.quantized[source], source) for source in sources]
        for end, parts in zip((".codes", ".scales"), zip(*arrays, strict=True), strict=True):
            places.append(sheet.file.named(label + end, *parts))
    codes, scales = ((one.key, one.size) for one in places)
    return sheet.delegate.weight(codes, scales, (rows, columns), scheme)
