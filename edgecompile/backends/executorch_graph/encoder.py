"""Encoders after BERT (Devlin et al. 2019) drawn by ourselves: look-ups, then one subgraph.

One text a call, so nothing is padded and no mask is needed; the length follows from the input.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executorch.exir.scalar_type import ScalarType

from edgecompile.architectures import ENCODERS, Encoder, first_position
from edgecompile.backends import schemes_of
from edgecompile.backends.executorch_graph.distances import Distances, bias, by_rule, drawn
from edgecompile.backends.executorch_graph.embedding import look_up
from edgecompile.backends.executorch_graph.layers import (
    LayerSheet,
    activated,
    attention,
    norm,
    swaps,
    unit,
    unswapped,
)
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile
from edgecompile.backends.executorch_graph.scope import has_kinds, text_limit
from edgecompile.backends.executorch_graph.sheet import Sheet, product, written
from edgecompile.model import Model
from edgecompile.numerics.swap import parameter_names
from edgecompile.passes import Progress
from edgecompile.structure import filled_in, skeleton
from edgecompile.tasks import PAIRS, PER_TOKEN

METHOD = "forward"
FLOAT, LONG = ScalarType.FLOAT, ScalarType.LONG


@dataclass(kw_only=True)
class EncoderSheet(LayerSheet):
    """The sheet with the config's numbers."""

    names: Encoder
    layers: int
    prefix: str  # of the base model's names in the module
    distances: Distances | None = None
    near: int | None = None  # what is added to scores by distance

    @property
    def swaps(self) -> bool:
        """Whether look-ups of words give neighbours swapped."""
        words = self.source(f"{self.prefix}{self.names.words}.weight")
        tied = self.source(f"{self.names.word_head.out}.weight") == words
        return swaps(self.schemes, words, tied and self.model.task == "fill-mask")


def write(model: Model, folder: Path, progress: Progress) -> dict[str, str]:
    """Write model.pte: `forward(input_ids)`; returns the source tensors left out, and why."""
    progress("write file", 0, 1)
    module = skeleton(model)
    sources = {name: s for s, name in parameter_names(module, model.weights).items()}
    file, method = PteFile(folder), Method(METHOD)
    names, config = ENCODERS[model.architecture], filled_in(model)
    prefix = "" if f"{names.words}.weight" in sources else names.prefix
    if model.task == "fill-mask":
        _tie(sources, names, prefix)
    sheet = EncoderSheet(
        model=model, sources=sources, schemes=schemes_of(model), file=file, stored={},
        tokens=text_limit(model), heads=config.num_attention_heads,
        layers=config.num_hidden_layers, epsilon=names.epsilon or float(config.layer_norm_eps),
        names=names, prefix=prefix, distances=_distances(model, module, sources, prefix),
    )  # fmt: skip
    arguments = _look_ups(sheet, method)
    _draw(sheet, len(arguments))
    finish(sheet, method, arguments)
    progress("write file", 1, 1)
    left = [source for source in model.weights if source not in written(sheet)]
    return dict.fromkeys(left, "not part of the graph")


def finish(sheet: Sheet, method: Method, arguments: Sequence[int]) -> None:
    """Call what is drawn, whose answer is the method's, and write the file."""
    *_, width = sheet.delegate.shape(sheet.delegate.outputs[0])
    per_token = sheet.model.task in PER_TOKEN
    sizes = (1, sheet.tokens, width) if per_token else (1, width)
    out = method.buffer(FLOAT, *sizes, fixed=not per_token)
    method.delegate(sheet.file.delegate(sheet.delegate.serialize()), *arguments, out)
    method.output(out)
    sheet.file.finish([method.plan()])


def _tie(sources: dict[str, str], names: Encoder, prefix: str) -> None:
    """A head's last weight and bias, of which a checkpoint may have one copy for two names."""
    head = names.word_head
    sources.setdefault(f"{head.out}.weight", sources[f"{prefix}{names.words}.weight"])
    sources.setdefault(f"{head.out}.bias", sources.get(head.bias, ""))


def _distances(
    model: Model, module: Any, sources: Mapping[str, str], prefix: str
) -> Distances | None:
    if not (name := ENCODERS[model.architecture].distances):
        return None
    rule = getattr(module, prefix.rstrip("."), module).encoder.relative_position_bucket
    return Distances(sources[f"{prefix}{name}.weight"], by_rule(rule, text_limit(model)))


def _look_ups(sheet: EncoderSheet, method: Method) -> list[int]:
    """Word and position rows [1, tokens, width]; biases by distance; rows of a pair's texts."""
    model, names = sheet.model, (sheet.names.words, sheet.names.positions)
    words, positions = (sheet.source(f"{sheet.prefix}{name}.weight") for name in names)
    width = model.weights.infos[words].shape[1]
    ids = method.input(LONG, 1, sheet.tokens)
    pair = model.task in PAIRS and has_kinds(model)
    types = method.input(LONG, 1, sheet.tokens) if pair else 0
    found = [method.buffer(FLOAT, 1, sheet.tokens, width) for _ in range(2)]
    sheet.stored |= look_up(
        method, sheet.file, model, words, (ids, found[0]), as_linear=sheet.swaps
    )
    table = model.dense(positions)
    at, sheet.stored[positions] = sheet.file.constant(positions, table)
    count, one = method.number(), method.scalar(1)
    method.call("aten::sym_size.int", ids, one, count)
    value = method.constant(FLOAT, (1, *table.shape), at, positions)
    first = first_position(model.architecture, model.config)
    start, end = method.scalar(first), count
    if first:
        end = method.number()
        method.call("executorch_prim::add.Scalar", count, start, end)
    method.call("aten::slice_copy.Tensor_out", value, one, start, end, one, found[1])
    if sheet.distances is not None:
        span, most = (method.scalar(0), count), (sheet.tokens, sheet.tokens)
        found.append(bias(sheet, method, sheet.distances, span, count, most))
    if pair:
        found.append(method.buffer(FLOAT, 1, sheet.tokens, width))
        kinds = sheet.source(f"{sheet.prefix}{sheet.names.kinds}.weight")
        sheet.stored |= look_up(method, sheet.file, model, kinds, (types, found[-1]))
    return found


def _draw(sheet: EncoderSheet, inputs: int) -> None:
    d, names, prefix = sheet.delegate, sheet.names, sheet.prefix
    width = sheet.model.weights.infos[sheet.source(f"{prefix}{names.words}.weight")].shape[1]
    given, positions = sheet.input(width), sheet.input(width)
    stream = d.add(unswapped(sheet, given) if sheet.swaps else given, positions)
    kinds = sheet.source(f"{prefix}{names.kinds}.weight")
    if sheet.distances is not None:
        sheet.near = drawn(sheet, sheet.tokens, sheet.tokens, sheet.heads)
    elif inputs > 2:
        stream = d.add(stream, sheet.input(width))
    elif kinds:
        values = sheet.model.dense(kinds)
        table = sheet.floats(kinds, (1, *values.shape), values)
        stream = d.add(stream, d.cut(table, 1, 0, 1))  # all tokens are of the first kind
    stream = norm(sheet, f"{prefix}{names.norm}", stream)
    for layer in range(sheet.layers):
        stream = _layer(sheet, prefix + names.layer.format(layer), stream)
    d.output(_answer(sheet, stream))


def _answer(sheet: EncoderSheet, stream: int) -> int:
    """What the task puts on the last layer."""
    task = sheet.model.task
    if task == "token-classification":
        return product(sheet, ["classifier"], stream)
    if task == "fill-mask":
        return _words(sheet, stream)
    return pooled(sheet, stream) if sheet.model.pooling else _classified(sheet, stream)


def _words(sheet: EncoderSheet, stream: int) -> int:
    """Scores of all words of the vocabulary, of each token: BERT's masked-language head."""
    head = sheet.names.word_head
    hidden = sheet.delegate.gelu(product(sheet, [head.dense], stream))
    return product(sheet, [head.out], norm(sheet, head.norm, hidden))


def _layer(sheet: EncoderSheet, start: str, stream: int) -> int:
    d, names = sheet.delegate, sheet.names
    qkv = [start + name for name in names.qkv]
    mixed = product(sheet, [start + names.out], attention(sheet, qkv, stream, sheet.near))
    stream = norm(sheet, start + names.attention_norm, d.add(stream, mixed))
    hidden = d.gelu(product(sheet, [start + names.up], stream))
    hidden = product(sheet, [start + names.down], hidden)
    return norm(sheet, start + names.mlp_norm, d.add(stream, hidden))


def pooled(sheet: Sheet, stream: int) -> int:
    """One vector [1, width], of length 1 where the model normalizes."""
    d, pooling = sheet.delegate, sheet.model.pooling
    width = d.shape(stream)[-1]
    if pooling is not None and pooling.mode == "mean":
        vector = d.reshape(d.average(d.reshape(stream, 1, 0, 1, width)), 1, width)
    else:
        vector = d.reshape(d.cut(stream, 1, 0, 1), 1, width)
    return unit(sheet, vector) if pooling is not None and pooling.normalize else vector


def _classified(sheet: EncoderSheet, stream: int) -> int:
    """Class scores [1, labels] from the first token."""
    d, (dense, out) = sheet.delegate, sheet.names.head
    first = d.reshape(d.cut(stream, 1, 0, 1), 1, d.shape(stream)[-1])
    hidden = product(sheet, [dense], first)
    relu = sheet.names.head_activation == "relu"
    return product(sheet, [out], activated(sheet, "relu", hidden) if relu else d.tanh(hidden))
