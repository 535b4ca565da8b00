"""ViT (Dosovitskiy et al. 2021) drawn by ourselves: one subgraph, of one picture a call."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from executorch.exir.scalar_type import ScalarType

from edgecompile.backends import schemes_of
from edgecompile.backends.executorch_graph.layers import (
    LayerSheet,
    PreNorm,
    norm,
    patches,
    pre_norm,
)
from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.pte import PteFile
from edgecompile.backends.executorch_graph.sheet import product, written
from edgecompile.model import Model
from edgecompile.numerics.swap import parameter_names
from edgecompile.passes import Progress
from edgecompile.structure import filled_in, skeleton

METHOD, FLOAT = "forward", ScalarType.FLOAT
ENTRY = "vit.embeddings."
NAMES = PreNorm(
    "", ("layernorm_before", "layernorm_after"), "attention", "attention.o_proj"
)


def write(model: Model, folder: Path, progress: Progress) -> dict[str, str]:
    """Write model.pte: `forward(pixel_values)`; returns the source tensors left out, and why."""
    progress("write file", 0, 1)
    sources = {name: s for s, name in parameter_names(skeleton(model), model.weights).items()}
    config = filled_in(model)
    sheet = LayerSheet(
        model=model, sources=sources, schemes=schemes_of(model), file=PteFile(folder), stored={},
        tokens=1, heads=config.num_attention_heads, epsilon=float(config.layer_norm_eps),
    )  # fmt: skip
    method, shape, d = Method(METHOD), model.picture_shape, sheet.delegate
    pixels = method.input(FLOAT, 1, *shape)
    stream = _entry(sheet, d.input(1, *shape))
    for layer in range(config.num_hidden_layers):
        names = replace(NAMES, layer=f"vit.layers.{layer}.")
        stream = pre_norm(sheet, names, config.hidden_act, stream)
    first = d.reshape(d.cut(stream, 1, 0, 1), 1, config.hidden_size)
    d.output(product(sheet, ["classifier"], norm(sheet, "vit.layernorm", first)))
    out = method.buffer(FLOAT, *d.shape(d.outputs[0]), fixed=True)
    method.delegate(sheet.file.delegate(d.serialize()), pixels, out)
    method.output(out)
    sheet.file.finish([method.plan()])
    progress("write file", 1, 1)
    left = [name for name in model.weights if name not in written(sheet)]
    return dict.fromkeys(left, "not part of the graph")


def _entry(sheet: LayerSheet, pixels: int) -> int:
    """[1, 1 + patches, width]: the class token's vector, then those of patches, with positions."""
    d = sheet.delegate
    vectors = patches(sheet, f"{ENTRY}patch_embeddings.projection", pixels)
    stream = d.join(sheet.vector(f"{ENTRY}cls_token", 3), vectors, axis=1)
    table = sheet.source(f"{ENTRY}position_embeddings")
    values = sheet.model.dense(table)
    return d.add(stream, sheet.floats(table, values.shape, values))
