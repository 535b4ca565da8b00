"""Bundles built from a wrong copy of the source: its tensors or its config are not the check's."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.faults.edits import from_wrong_config, from_wrong_source
from tests.faults.planting import fault
from tests.faults.twins import Twin

DECODER = Twin("decoder", "gguf", "gptq", 8)
ENCODER = Twin("encoder", "gguf")
EXPORTED = Twin("encoder", "openvino", "rtn", 8)
Tensors = dict[str, Any]
HEAD = 16  # rows of a head
SHARES: dict[str, Any] = {"ladder": (1.0, 0.3, 0.1, 0.03, 0.01), "unit": "of it"}


@fault("weight transposed", "source", DECODER, "sealed")
@from_wrong_source
def transposed(tensors: Tensors, _: float) -> None:
    """A square matrix read column by column."""
    name = "model.layers.1.self_attn.o_proj.weight"
    tensors[name] = tensors[name].T


@fault("heads swapped", "source", DECODER, "sealed")
@from_wrong_source
def heads_swapped(tensors: Tensors, _: float) -> None:
    """The queries of the first head and of the third change places."""
    name = "model.layers.0.self_attn.q_proj.weight"
    old = tensors[name].clone()
    tensors[name][:HEAD] = old[2 * HEAD : 3 * HEAD]
    tensors[name][2 * HEAD : 3 * HEAD] = old[:HEAD]


@fault("bias missing", "source", ENCODER, "sealed", at=0.1, **SHARES)
@from_wrong_source
def bias_missing(tensors: Tensors, magnitude: float) -> None:
    """A share of one product's bias is lost."""
    tensors["encoder.layer.1.intermediate.dense.bias"] *= 1 - magnitude


@fault("layer skipped", "source", DECODER, "sealed", at=0.3, **SHARES)
@from_wrong_source
def layer_skipped(tensors: Tensors, magnitude: float) -> None:
    """A layer adds less than it should to what passes it; wholly skipped at 1."""
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.1.{part}.weight"] *= 1 - magnitude


@fault("layers swapped", "source", DECODER, "sealed", slow=True)
@from_wrong_source
def layers_swapped(tensors: Tensors, _: float) -> None:
    """Two layers run in the other order."""
    first = {n: t for n, t in tensors.items() if n.startswith("model.layers.0.")}
    for name, tensor in first.items():
        other = name.replace("layers.0", "layers.1")
        tensors[name], tensors[other] = tensors[other], tensor


@fault("norm of another layer", "source", ENCODER, "sealed", slow=True)
@from_wrong_source
def norm_of_another(tensors: Tensors, _: float) -> None:
    """A layer's first norm has the weight of the next layer's."""
    name = "encoder.layer.{}.attention.output.LayerNorm.weight"
    tensors[name.format(0)] = tensors[name.format(1)]


@fault("embedding rows permuted", "source", ENCODER, "sealed", slow=True,
       ladder=(64, 16, 4, 2), at=2, unit="rows")  # fmt: skip
@from_wrong_source
def rows_permuted(tensors: Tensors, magnitude: float) -> None:
    """The last tokens of the vocabulary, whole words, are read one row too early."""
    rows = tensors["embeddings.word_embeddings.weight"][-int(magnitude) :]
    rows.copy_(rows.roll(1, 0))


@fault("positions off by one", "source", ENCODER, "sealed")
@from_wrong_source
def positions_off(tensors: Tensors, _: float) -> None:
    """Each position has the embedding of the one before it."""
    name = "embeddings.position_embeddings.weight"
    tensors[name] = tensors[name].roll(1, 0)


@fault("rounded to fewer bits", "source", ENCODER, "sealed",
       ladder=(2, 3, 4, 5, 6, 7), at=5, unit="bits of fraction")  # fmt: skip
@from_wrong_source
def rounded(tensors: Tensors, magnitude: float) -> None:
    """All weights went through a float with a shorter fraction; bfloat16's is of 7 bits."""
    for tensor in tensors.values():
        bits = tensor.numpy().view(np.uint32)
        dropped = np.uint32(23 - int(magnitude))
        bits += np.uint32(1) << (dropped - np.uint32(1))
        bits &= np.uint32(0xFFFFFFFF) << dropped


@fault("chat tokens' rows swapped", "source", DECODER, "sealed")
@from_wrong_source
def chat_tokens(tensors: Tensors, _: float) -> None:
    """What begins a turn and what ends it change places."""
    rows = tensors["model.embed_tokens.weight"][:2]
    rows.copy_(rows.flip(0))


@fault("wrong activation", "source", EXPORTED, "graph", slow=True)
@from_wrong_config
def wrong_activation(config: dict[str, Any], _: float) -> None:
    """The copy's config names another activation."""
    config["hidden_act"] = "relu"


@fault("rope base in the config", "source", DECODER, "sealed", slow=True,
       ladder=(1.0, 0.1, 0.01, 1e-4, 1e-5), at=1e-5, unit="relative")  # fmt: skip
@from_wrong_config
def config_rope(config: dict[str, Any], magnitude: float) -> None:
    """The copy's config has another base."""
    where = config.get("rope_parameters") or config
    where["rope_theta"] = where["rope_theta"] * (1 + magnitude)
