"""CLIP (Radford et al. 2021) drawn by ourselves: a method of texts and one of pictures.

One text or picture a call. A text's tokens see those before them alone; its vector is that of its
end token, found by the program between two subgraphs.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from executorch.exir.scalar_type import ScalarType

from edgecompile.backends import schemes_of
from edgecompile.backends.executorch_graph.delegate import Delegate
from edgecompile.backends.executorch_graph.embedding import look_up
from edgecompile.backends.executorch_graph.layers import (
    LayerSheet,
    PreNorm,
    norm,
    patches,
    pre_norm,
    unit,
)
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile, Stored
from edgecompile.backends.executorch_graph.sheet import product, written
from edgecompile.graphs import unread
from edgecompile.model import Model
from edgecompile.numerics.swap import parameter_names
from edgecompile.numerics.towers import HIDDEN, HIGHEST
from edgecompile.passes import Progress
from edgecompile.structure import skeleton

FLOAT, LONG, BYTE = ScalarType.FLOAT, ScalarType.LONG, ScalarType.BYTE
MASK = "mask"  # a constant that is not the source's
NAMES = PreNorm("", ("layer_norm1", "layer_norm2"), "self_attn", "self_attn.out_proj")


@dataclass(kw_only=True)
class TowerSheet(LayerSheet):
    """The sheet with one tower's part of the config."""

    prefix: str  # of its names in the module: text_model., vision_model.
    config: Mapping[str, Any]

    def again(self) -> TowerSheet:
        """Another subgraph of the same tower and file."""
        return replace(self, delegate=Delegate(), quantized={})


def write(model: Model, folder: Path, progress: Progress) -> dict[str, str]:
    """Write model.pte: `text(input_ids)`, `vision(pixel_values)`; source tensors left out, why."""
    progress("write file", 0, 1)
    sources = {name: s for s, name in parameter_names(skeleton(model), model.weights).items()}
    file, stored = PteFile(folder), dict[str, Stored]()

    def sheet(part: str, tokens: int) -> TowerSheet:
        config = model.config[f"{part}_config"]
        return TowerSheet(
            model=model, sources=sources, schemes=schemes_of(model), file=file, stored=stored,
            tokens=tokens, heads=int(config["num_attention_heads"]),
            epsilon=float(config["layer_norm_eps"]), prefix=f"{part}_model.", config=config,
        )  # fmt: skip

    text = sheet("text", int(model.text_config["max_position_embeddings"]))
    methods = [_text(text), _vision(sheet("vision", 1))]
    file.finish([method.plan() for method in methods])
    progress("write file", 1, 1)
    left = (name for name in model.weights if name not in written(text))
    return dict.fromkeys(left, "not part of the graph") | unread(model)


def _text(sheet: TowerSheet) -> Method:
    method, width = Method("text"), int(sheet.config["hidden_size"])
    ids = method.input(LONG, 1, sheet.tokens)
    words = method.buffer(FLOAT, 1, sheet.tokens, width)
    source = sheet.source(f"{sheet.prefix}embeddings.token_embedding.weight")
    sheet.stored |= look_up(method, sheet.file, sheet.model, source, (ids, words))
    given = (words, _positions(sheet, method, ids), _mask(sheet, method, ids))
    d = sheet.delegate
    stream = d.add(sheet.input(width), sheet.input(width))
    d.output(_layers(sheet, stream, d.input(1, 1, sheet.tokens, sheet.tokens)))
    hidden = method.buffer(FLOAT, 1, sheet.tokens, width)
    method.delegate(sheet.file.delegate(d.serialize()), *given, hidden)
    last = method.buffer(FLOAT, 1, 1, width, fixed=True)
    one = method.scalar(1)
    method.call("aten::index_select.out", hidden, one, _end(sheet, method, ids), last)
    after = sheet.again()
    _answer(after, after.delegate.input(1, 1, width), method, (last,), "final_layer_norm")
    return method


def _positions(sheet: TowerSheet, method: Method, ids: int) -> int:
    """Rows of the table for the text's tokens, float32 [1, tokens, width]."""
    name = sheet.source(f"{sheet.prefix}embeddings.position_embedding.weight")
    table = sheet.model.dense(name)
    at, sheet.stored[name] = sheet.file.constant(name, table)
    whole = method.constant(FLOAT, (1, *table.shape), at, name)
    rows = method.buffer(FLOAT, 1, sheet.tokens, table.shape[1])
    return _first(method, whole, 1, _count(method, ids), rows)


def _mask(sheet: TowerSheet, method: Method, ids: int) -> int:
    """What is added to scores [1, 1, tokens, tokens]: later tokens are not seen."""
    shape, label = (1, 1, sheet.tokens, sheet.tokens), f"{MASK}.{sheet.tokens}"
    later = np.triu(np.full(shape[2:], HIDDEN, np.float32), 1)
    at, _ = sheet.file.constant(label, later)
    whole, count = method.constant(FLOAT, shape, at, label), _count(method, ids)
    rows = _first(method, whole, 2, count, method.buffer(FLOAT, *shape))
    return _first(method, rows, 3, count, method.buffer(FLOAT, *shape))


def _count(method: Method, ids: int) -> int:
    """How many tokens there are."""
    count = method.number()
    method.call("aten::sym_size.int", ids, method.scalar(1), count)
    return count


def _first(method: Method, value: int, axis: int, count: int, out: int) -> int:
    """The first `count` along an axis."""
    start, step = method.scalar(0), method.scalar(1)
    arguments = (value, method.scalar(axis), start, count, step, out)
    method.call("aten::slice_copy.Tensor_out", *arguments)
    return out


def _end(sheet: TowerSheet, method: Method, ids: int) -> int:
    """int64 [1]: the place of the first end token, or of the first that has the highest id."""
    end, marks = int(sheet.config["eos_token_id"]), ids
    if end != HIGHEST:
        marks = method.buffer(BYTE, 1, sheet.tokens)
        method.call("aten::eq.Scalar_out", ids, method.scalar(end), marks)
    place = method.buffer(LONG, 1, fixed=True)
    method.call("aten::argmax.out", marks, method.scalar(1), method.scalar(False), place)
    return place


def _vision(sheet: TowerSheet) -> Method:
    method, config, d = Method("vision"), sheet.config, sheet.delegate
    side, channels = (int(config[name]) for name in ("image_size", "num_channels"))
    pixels = method.input(FLOAT, 1, channels, side, side)
    entry = f"{sheet.prefix}embeddings."
    stream = patches(sheet, f"{entry}patch_embedding", d.input(1, channels, side, side))
    stream = d.join(sheet.vector(f"{entry}class_embedding", 3), stream, axis=1)
    table = sheet.source(f"{entry}position_embedding.weight")
    values = sheet.model.dense(table)
    stream = d.add(stream, sheet.floats(table, (1, *values.shape), values))
    stream = _layers(sheet, norm(sheet, f"{sheet.prefix}pre_layrnorm", stream))
    _answer(sheet, d.cut(stream, 1, 0, 1), method, (pixels,), "post_layernorm")
    return method


def _layers(sheet: TowerSheet, stream: int, mask: int | None = None) -> int:
    activation = str(sheet.config["hidden_act"])
    for layer in range(int(sheet.config["num_hidden_layers"])):
        names = replace(NAMES, layer=f"{sheet.prefix}encoder.layers.{layer}.")
        stream = pre_norm(sheet, names, activation, stream, mask)
    return stream


def _answer(
    sheet: TowerSheet, vector: int, method: Method, given: tuple[int, ...], last: str
) -> None:
    """The vector [1, 1, width], normed and projected to length 1, is the method's output."""
    d, name = sheet.delegate, "text" if sheet.prefix.startswith("text") else "visual"
    found = product(sheet, [f"{name}_projection"], norm(sheet, sheet.prefix + last, vector))
    width = d.shape(found)[-1]
    d.output(unit(sheet, d.reshape(found, 1, width)))
    out = method.buffer(FLOAT, 1, width, fixed=True)
    method.delegate(sheet.file.delegate(d.serialize()), *given, out)
    method.output(out)
