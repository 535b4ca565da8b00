"""T5 (Raffel et al. 2020) drawn by ourselves: an encoder's method and a decoder's, one text a call.

Look-ups, then one subgraph each. The keys and values of the answer so far come with every call;
a bias by the distance of query and key is looked up for every pair of places.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.exir.scalar_type import ScalarType

from edgecompile.backends import schemes_of
from edgecompile.backends.executorch_graph.distances import (
    PLACES,
    Distances,
    bias,
    by_rule,
    drawn,
    places,
)
from edgecompile.backends.executorch_graph.embedding import look_up
from edgecompile.backends.executorch_graph.layers import (
    activated,
    root_mean_square,
    swaps,
    unswapped,
)
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile, Stored
from edgecompile.backends.executorch_graph.scope import ANSWER, T5_ACTIVATIONS
from edgecompile.backends.executorch_graph.sheet import Sheet, product, products, written
from edgecompile.model import Model
from edgecompile.numerics.halves import HIDDEN
from edgecompile.numerics.swap import parameter_names
from edgecompile.passes import Progress
from edgecompile.structure import skeleton

FLOAT, LONG = ScalarType.FLOAT, ScalarType.LONG
WORDS, HEAD = "shared", "lm_head"
HEAD_SCALE = "head.scale"  # a constant that is not the source's


@dataclass(kw_only=True)
class T5Sheet(Sheet):
    """The sheet of the encoder or of the decoder, with the config's numbers."""

    config: Any  # transformers' T5Config
    prefix: str  # of its names in the module: `encoder.` or `decoder.`
    longest: int  # tokens of a source, and of an answer
    method: Method
    distances: Distances


@dataclass(frozen=True)
class Drawn:
    """What is there: 2 layers, heads, size of a token's keys and values; words."""

    row: tuple[int, int, int]
    words: int
    unused: dict[str, str]  # source tensors left out, and why


def write(model: Model, longest: int, folder: Path, progress: Progress) -> Drawn:
    """Write model.pte: `encoder(input_ids)` and `decoder(decoder_input_ids, past, cross)`."""
    progress("write file", 0, 1)
    module: Any = skeleton(model)
    sources = {name: s for s, name in parameter_names(module, model.weights).items()}
    file, stored = PteFile(folder), dict[str, Stored]()
    encoder, decoder = (
        T5Sheet(
            model=model, sources=sources, schemes=schemes_of(model), file=file, stored=stored,
            tokens=tokens, config=module.config, prefix=f"{name}.", longest=longest,
            method=Method(name), distances=_distances(module, name, sources, longest + 1),
        )
        for name, tokens in (("encoder", longest), ("decoder", min(ANSWER, longest)))
    )  # fmt: skip
    before = _before_encoder(encoder), _before_decoder(decoder)  # constants come first in the file
    _encode(encoder, before[0])
    _decode(decoder, before[1])
    file.finish([encoder.method.plan(), decoder.method.plan()])
    progress("write file", 1, 1)
    left = [name for name in model.weights if name not in written(decoder)]
    unused, config = dict.fromkeys(left, "not part of the graph"), module.config
    row = 2 * config.num_decoder_layers, config.num_heads, config.d_kv
    return Drawn(row, config.vocab_size, unused)


def _distances(module: Any, stack: str, sources: Mapping[str, str], farthest: int) -> Distances:
    by, owner = getattr(module, stack).block[0].layer[0].SelfAttention, f"{stack}.block.0.layer.0"
    table = sources[f"{owner}.SelfAttention.relative_attention_bias.weight"]

    def bucket(distances: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = by._relative_position_bucket(
            distances, not by.is_decoder, by.relative_attention_num_buckets,
            by.relative_attention_max_distance,
        )  # fmt: skip
        return found

    return Distances(table, by_rule(bucket, farthest), f"{stack}.")


def _words(sheet: T5Sheet, ids: int) -> int:
    """Rows of the embedding [1, tokens, width]."""
    rows = sheet.method.buffer(FLOAT, 1, sheet.tokens, sheet.config.d_model)
    sheet.stored |= look_up(
        sheet.method, sheet.file, sheet.model, sheet.source(f"{WORDS}.weight"), (ids, rows),
        as_linear=_swaps(sheet),
    )  # fmt: skip
    return rows


def _swaps(sheet: T5Sheet) -> bool:
    tied = not sheet.source(f"{HEAD}.weight")
    return swaps(sheet.schemes, sheet.source(f"{WORDS}.weight"), tied)


def _count(method: Method, value: int, axis: int) -> int:
    count = method.number()
    method.call("aten::sym_size.int", value, method.scalar(axis), count)
    return count


def _before_encoder(sheet: T5Sheet) -> list[int]:
    """What the subgraph takes: rows of the embedding, bias."""
    method = sheet.method
    ids = method.input(LONG, 1, sheet.tokens)
    count = _count(method, ids, 1)
    span, most = (method.scalar(0), count), (sheet.tokens, sheet.tokens)
    return [_words(sheet, ids), bias(sheet, method, sheet.distances, span, count, most)]


def _encode(sheet: T5Sheet, given: Sequence[int]) -> None:
    """The encoder's layers, then keys and values of each of the decoder's cross-attentions."""
    d, config, method = sheet.delegate, sheet.config, sheet.method
    stream = _stream(sheet)
    near = drawn(sheet, sheet.tokens, sheet.tokens, config.num_heads)
    for layer in range(config.num_layers):
        start = f"{sheet.prefix}block.{layer}.layer."
        q, k, v = (_heads(sheet, one) for one in _qkv(sheet, f"{start}0.", stream))
        stream = d.add(stream, _attended(sheet, f"{start}0.SelfAttention", q, (k, v), near))
        stream = _mlp(sheet, f"{start}1.", stream)
    stream = _norm(sheet, f"{sheet.prefix}final_layer_norm", stream)
    parts = []
    for layer in range(config.num_decoder_layers):
        names = [f"decoder.block.{layer}.layer.1.EncDecAttention.{name}" for name in "kv"]
        parts += [_heads(sheet, one) for one in products(sheet, names, stream)]
    d.output(_joined(sheet, parts, 0))
    cross = method.buffer(FLOAT, *d.shape(d.outputs[0]))
    method.delegate(sheet.file.delegate(d.serialize()), *given, cross)
    method.output(cross)


def _before_decoder(sheet: T5Sheet) -> list[int]:
    """What the subgraph takes: rows of the embedding, past, cross, bias, what hides places.

    Keys are a row that nothing sees, those of the past, and the new ones.
    """
    method, config, longest = sheet.method, sheet.config, sheet.longest
    ids = method.input(LONG, 1, sheet.tokens)
    both = 2 * config.num_decoder_layers
    past = method.input(FLOAT, longest + 1, both, config.num_heads, config.d_kv)
    cross = method.input(FLOAT, both, config.num_heads, longest, config.d_kv)
    before, keys = _count(method, past, 0), method.number()
    method.call("executorch_prim::add.Scalar", before, _count(method, ids, 1), keys)
    new, every = (before, keys), (method.scalar(0), keys)
    near = bias(sheet, method, sheet.distances, new, keys, (sheet.tokens, longest + 1))
    asking = places(sheet, method, 2, longest, (*new, sheet.tokens))
    asked = places(sheet, method, 3, longest, (*every, longest + 1))
    return [_words(sheet, ids), past, cross, near, asking, asked]


def _decode(sheet: T5Sheet, given: Sequence[int]) -> None:
    """Logits, and the new keys and values."""
    d, config, method = sheet.delegate, sheet.config, sheet.method
    stream, both = _stream(sheet), 2 * config.num_decoder_layers
    past = d.input(sheet.longest + 1, both, config.num_heads, config.d_kv)
    past = d.transpose(past, 1, 2, 0, 3)
    cross = d.input(both, config.num_heads, sheet.longest, config.d_kv)
    near, new = _seen(sheet), list[int]()
    for layer in range(config.num_decoder_layers):
        start, here = f"{sheet.prefix}block.{layer}.layer.", 2 * layer
        q, *kv = (_heads(sheet, one) for one in _qkv(sheet, f"{start}0.", stream))
        new += kv
        pairs = [d.join(d.cut(past, 0, here + at, 1), one, 2) for at, one in enumerate(kv)]
        stream = d.add(stream, _attended(sheet, f"{start}0.SelfAttention", q, pairs, near))
        name = f"{start}1.EncDecAttention"
        normed = _norm(sheet, f"{start}1.layer_norm", stream)
        q = _heads(sheet, product(sheet, [f"{name}.q"], normed))
        pairs = [d.cut(cross, 0, here + at, 1) for at in (0, 1)]
        stream = d.add(stream, _attended(sheet, name, q, pairs))
        stream = _mlp(sheet, f"{start}2.", stream)
    d.output(_logits(sheet, _norm(sheet, f"{sheet.prefix}final_layer_norm", stream)))
    d.output(d.transpose(_joined(sheet, new, 0), 2, 0, 1, 3))
    outs = [method.buffer(FLOAT, *d.shape(value)) for value in d.outputs]
    method.delegate(sheet.file.delegate(d.serialize()), *given, *outs)
    for out in outs:
        method.output(out)


def _seen(sheet: T5Sheet) -> int:
    """The bias [1, heads, tokens, keys]; later keys and the first one are not seen."""
    d, keys = sheet.delegate, sheet.longest + 1
    near = drawn(sheet, sheet.tokens, keys, sheet.config.num_heads)
    asking, asked = d.input(1, 1, sheet.tokens, 1), d.input(1, 1, 1, keys)
    zero, half = (sheet.number(asked, f"{PLACES}.{value}", value) for value in (0.0, 0.5))
    later = d.largest(d.subtract(asked, asking), zero)
    first = d.largest(d.subtract(half, asked), zero)
    hidden = sheet.times(d.add(later, first), f"{PLACES}.hidden", 2 * HIDDEN)
    return d.add(near, hidden)


def _stream(sheet: T5Sheet) -> int:
    rows = sheet.input(sheet.config.d_model)
    return unswapped(sheet, rows) if _swaps(sheet) else rows


def _norm(sheet: T5Sheet, name: str, value: int) -> int:
    weight = sheet.vector(f"{name}.weight", len(sheet.delegate.shape(value)))
    return root_mean_square(sheet, value, weight, float(sheet.config.layer_norm_epsilon))


def _qkv(sheet: T5Sheet, start: str, stream: int) -> list[int]:
    normed = _norm(sheet, f"{start}layer_norm", stream)
    return products(sheet, [f"{start}SelfAttention.{name}" for name in "qkv"], normed)


def _heads(sheet: T5Sheet, value: int) -> int:
    """[1, tokens, heads x size] as [1, heads, tokens, size]."""
    d, config = sheet.delegate, sheet.config
    return d.transpose(d.reshape(value, 1, 0, config.num_heads, config.d_kv), 0, 2, 1, 3)


def _attended(
    sheet: T5Sheet, name: str, query: int, pair: Sequence[int], near: int | None = None
) -> int:
    """Attention without a scale, as T5 has it, and its output projection: [1, tokens, width]."""
    d, config = sheet.delegate, sheet.config
    scores = d.matmul(query, pair[0], transposed=True)
    if near is not None:
        scores = d.add(scores, near)
    mixed = d.transpose(d.matmul(d.softmax(scores), pair[1]), 0, 2, 1, 3)
    flat = d.reshape(mixed, 1, 0, config.num_heads * config.d_kv)
    return product(sheet, [f"{name}.o"], flat)


def _mlp(sheet: T5Sheet, start: str, stream: int) -> int:
    """With a gate (Shazeer 2020) from T5 1.1 on."""
    d, config = sheet.delegate, sheet.config
    normed = _norm(sheet, f"{start}layer_norm", stream)
    activation = T5_ACTIVATIONS[config.dense_act_fn]
    names = ["wi_0", "wi_1"] if config.is_gated_act else ["wi"]
    inner, *linear = products(sheet, [f"{start}DenseReluDense.{name}" for name in names], normed)
    hidden = activated(sheet, activation, inner)
    for one in linear:
        hidden = d.multiply(hidden, one)
    return d.add(stream, product(sheet, [f"{start}DenseReluDense.wo"], hidden))


def _logits(sheet: T5Sheet, stream: int) -> int:
    if sheet.config.scale_decoder_outputs:
        stream = sheet.times(stream, HEAD_SCALE, sheet.config.d_model**-0.5)
    return product(sheet, [HEAD if sheet.source(f"{HEAD}.weight") else WORDS], stream)


def _joined(sheet: T5Sheet, values: Sequence[int], axis: int) -> int:
    """All along an axis, two by two: each is copied as often as the number has digits."""
    while len(values) > 1:
        pairs = [values[at : at + 2] for at in range(0, len(values), 2)]
        values = [sheet.delegate.join(p[0], p[1], axis) if len(p) > 1 else p[0] for p in pairs]
    return values[0]
