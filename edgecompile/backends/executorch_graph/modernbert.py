"""ModernBERT (Warner et al. 2024) drawn by ourselves: look-ups, then one subgraph, one text a call.

Heads turn by position, each kind of layer by tables of its own; a layer sees all tokens, or those
of a window around each.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.exir.scalar_type import ScalarType
from numpy.typing import NDArray

from edgecompile.backends import schemes_of
from edgecompile.backends.executorch_graph.decoder import ROTARY
from edgecompile.backends.executorch_graph.distances import PLACES, places
from edgecompile.backends.executorch_graph.embedding import look_up
from edgecompile.backends.executorch_graph.encoder import METHOD, finish, pooled
from edgecompile.backends.executorch_graph.layers import (
    LayerSheet,
    Tables,
    activated,
    mixed,
    norm,
    swaps,
    turned,
    unswapped,
    whole_heads,
)
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile
from edgecompile.backends.executorch_graph.scope import text_limit
from edgecompile.backends.executorch_graph.sheet import product, written
from edgecompile.model import Model
from edgecompile.numerics.halves import HIDDEN
from edgecompile.numerics.swap import parameter_names
from edgecompile.passes import Progress
from edgecompile.structure import skeleton

FLOAT, LONG = ScalarType.FLOAT, ScalarType.LONG
WORDS, SLIDING = "embeddings.tok_embeddings", "sliding_attention"


@dataclass(kw_only=True)
class ModernSheet(LayerSheet):
    """The sheet with the config's numbers."""

    config: Any  # transformers' ModernBertConfig
    prefix: str  # of the base model's names in the module
    swaps: bool  # whether look-ups of words give neighbours swapped
    tables: dict[str, Tables] = field(default_factory=dict)  # by kind of layer
    window: int | None = None  # what hides tokens far away


def write(model: Model, folder: Path, progress: Progress) -> dict[str, str]:
    """Write model.pte: `forward(input_ids)`; returns the source tensors left out, and why."""
    progress("write file", 0, 1)
    module: Any = skeleton(model)
    sources = {name: s for s, name in parameter_names(module, model.weights).items()}
    prefix = "" if f"{WORDS}.weight" in sources else "model."
    words, schemes = sources[f"{prefix}{WORDS}.weight"], schemes_of(model)
    tied = sources.setdefault("decoder.weight", words) == words and model.task == "fill-mask"
    sheet = ModernSheet(
        model=model, sources=sources, schemes=schemes, file=PteFile(folder), stored={},
        tokens=text_limit(model), heads=module.config.num_attention_heads,
        epsilon=float(module.config.norm_eps), config=module.config, prefix=prefix,
        swaps=swaps(schemes, words, tied),
    )  # fmt: skip
    method = Method(METHOD)
    arguments = _look_ups(sheet, method, getattr(module, prefix.rstrip("."), module).rotary_emb)
    sheet.delegate.output(_answer(sheet, _draw(sheet)))
    finish(sheet, method, arguments)
    progress("write file", 1, 1)
    left = [name for name in model.weights if name not in written(sheet)]
    return dict.fromkeys(left, "not part of the graph")


def _kinds(sheet: ModernSheet) -> list[str]:
    return sorted(set(sheet.config.layer_types))


def _look_ups(sheet: ModernSheet, method: Method, rotary: Any) -> list[int]:
    """Word rows, rotary rows of each kind of layer, places as queries and as keys."""
    ids = method.input(LONG, 1, sheet.tokens)
    found = [method.buffer(FLOAT, 1, sheet.tokens, sheet.config.hidden_size)]
    sheet.stored |= look_up(
        method, sheet.file, sheet.model, sheet.source(f"{sheet.prefix}{WORDS}.weight"),
        (ids, found[0]), as_linear=sheet.swaps,
    )  # fmt: skip
    count, start, one = method.number(), method.scalar(0), method.scalar(1)
    method.call("aten::sym_size.int", ids, one, count)
    for kind in _kinds(sheet):
        values, label = _angles(sheet, rotary, kind), f"{ROTARY}.{kind}"
        at, _ = sheet.file.constant(label, values)
        table = method.constant(FLOAT, values.shape, at, label)
        found.append(method.buffer(FLOAT, 1, sheet.tokens, 1, values.shape[3]))
        method.call("aten::slice_copy.Tensor_out", table, one, start, count, one, found[-1])
    span = start, count, sheet.tokens
    return [*found, *(places(sheet, method, axis, sheet.tokens, span) for axis in (2, 3))]


def _angles(sheet: ModernSheet, rotary: Any, kind: str) -> NDArray[np.float32]:
    """cos and sin [1, tokens, 1, size] of half a head's angles, side by side."""
    inverse, factor = rotary.compute_default_rope_parameters(
        sheet.config, torch.device("cpu"), layer_type=kind
    )
    angles = torch.arange(sheet.tokens).float()[:, None] * inverse[None]
    both: NDArray[np.float32] = torch.cat([angles.cos(), angles.sin()], 1).mul(factor).numpy()
    return both[None, :, None]


def _draw(sheet: ModernSheet) -> int:
    """The last layer's vectors [1, tokens, width]."""
    d, config, tokens = sheet.delegate, sheet.config, sheet.tokens
    stream = sheet.input(config.hidden_size)
    size = config.hidden_size // sheet.heads
    rows = {kind: sheet.input(1, size) for kind in _kinds(sheet)}
    sheet.tables = {kind: whole_heads(sheet, one) for kind, one in rows.items()}
    asking, asked = d.input(1, 1, tokens, 1), d.input(1, 1, 1, tokens)
    away = d.absolute(d.subtract(asked, asking))
    beyond = d.subtract(away, sheet.number(away, f"{PLACES}.reach", config.sliding_window))
    beyond = d.largest(beyond, sheet.number(away, f"{PLACES}.0", 0.0))
    sheet.window = sheet.times(beyond, f"{PLACES}.hidden", HIDDEN)
    stream = unswapped(sheet, stream) if sheet.swaps else stream
    stream = _norm(sheet, "embeddings.norm", stream)
    for layer, kind in enumerate(config.layer_types):
        stream = _layer(sheet, f"{sheet.prefix}layers.{layer}.", kind, stream)
    return _norm(sheet, "final_norm", stream)


def _layer(sheet: ModernSheet, start: str, kind: str, stream: int) -> int:
    d, normed = sheet.delegate, stream
    if sheet.source(f"{start}attn_norm.weight"):  # the first layer has none
        normed = norm(sheet, f"{start}attn_norm", stream)
    attended = _attended(sheet, start, kind, normed)
    stream = d.add(stream, product(sheet, [f"{start}attn.Wo"], attended))
    normed = norm(sheet, f"{start}mlp_norm", stream)
    both = product(sheet, [f"{start}mlp.Wi"], normed)
    width = sheet.config.intermediate_size
    inner, gate = (d.cut(both, 2, at, width) for at in (0, width))
    hidden = d.multiply(activated(sheet, sheet.config.hidden_activation, inner), gate)
    return d.add(stream, product(sheet, [f"{start}mlp.Wo"], hidden))


def _attended(sheet: ModernSheet, start: str, kind: str, normed: int) -> int:
    d, config = sheet.delegate, sheet.config
    count, size = sheet.heads, config.hidden_size // sheet.heads
    heads = d.reshape(product(sheet, [f"{start}attn.Wqkv"], normed), 1, 0, 3 * count, size)
    both = turned(sheet, d.cut(heads, 2, 0, 2 * count), sheet.tables[kind])
    parts = (both, 0), (both, count), (heads, 2 * count)
    q, k, v = (d.transpose(d.cut(of, 2, at, count), 0, 2, 1, 3) for of, at in parts)
    return mixed(sheet, (q, k, v), sheet.window if kind == SLIDING else None)


def _norm(sheet: ModernSheet, name: str, value: int) -> int:
    return norm(sheet, sheet.prefix + name, value)


def _answer(sheet: ModernSheet, stream: int) -> int:
    """What the task puts on the last layer."""
    task, d = sheet.model.task, sheet.delegate
    if sheet.model.pooling:
        return pooled(sheet, stream)
    if task == "fill-mask":
        return product(sheet, ["decoder"], _head(sheet, stream))
    if task == "token-classification":
        return product(sheet, ["classifier"], _head(sheet, stream))
    width = d.shape(stream)[-1]
    first = d.cut(stream, 1, 0, 1)
    if sheet.config.classifier_pooling == "mean":
        first = d.average(d.reshape(stream, 1, 0, 1, width))
    return product(sheet, ["classifier"], _head(sheet, d.reshape(first, 1, width)))


def _head(sheet: ModernSheet, value: int) -> int:
    hidden = product(sheet, ["head.dense"], value)
    hidden = activated(sheet, sheet.config.classifier_activation, hidden)
    return norm(sheet, "head.norm", hidden)
