"""The table of a GGUF's tensors by Hugging Face names, each with the shape that it must have."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf

from edgecompile.architectures import DECODERS, Decoder, common
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources.gguf_config import ROPE_FREQS, Family, family
from edgecompile.sources.gguf_file import AGAIN, FROM_FOLDER, GgufFile


def tensor_names(file: GgufFile, config: Mapping[str, Any]) -> dict[str, str]:
    """Hugging Face tensor name -> GGUF name; each present with its shape, and none left over."""
    kind, config = family(file), common(config)
    wanted = _shapes(kind, config)
    names = gguf.get_tensor_name_map(kind.arch, config["num_hidden_layers"])
    result = {name: names.get_name(name, (".weight", ".bias")) or name for name in wanted}
    for name, shape in wanted.items():
        _check_tensor(file, result[name], shape)
    left = sorted(set(file.tensors) - set(result.values()) - {ROPE_FREQS})
    if left:
        found = f"{len(left)} tensors that a {config['model_type']} model has no place for: "
        raise UnsupportedError(str(file.path), found + ", ".join(left[:4]), "", FROM_FOLDER)
    return result


def _shapes(kind: Family, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """By the names that the architecture's checkpoints have."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    described = DECODERS[kind.model_type]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    if described.positions:
        positions = config["max_position_embeddings"]
        shapes["model.embed_positions.weight"] = (positions, hidden)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in _layer_shapes(kind, config).items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    shapes |= _norm_shapes("model.norm", hidden, described)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return {described.names.stored(name): shape for name, shape in shapes.items()}


def _norm_shapes(name: str, width: int, described: Decoder) -> dict[str, tuple[int, ...]]:
    ends = ("weight", "bias") if described.centred else ("weight",)
    return {f"{name}.{end}": (width,) for end in ends}


def _layer_shapes(kind: Family, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    described = DECODERS[kind.model_type]
    hidden, linear = config["hidden_size"], _linear_shapes(described, config)
    shapes: dict[str, tuple[int, ...]] = {f"{k}.weight": shape for k, shape in linear.items()}
    for name, shape in linear.items():
        in_attention = name.startswith("self_attn")
        if config.get("attention_bias" if in_attention else "mlp_bias") or described.centred or (
            kind.qkv_bias and in_attention and not name.endswith("o_proj")
        ):
            shapes[f"{name}.bias"] = shape[:1]
    for name in described.norms.names:
        shapes |= _norm_shapes(name, hidden, described)
    if described.head_norms:
        shapes |= {f"self_attn.{which}_norm.weight": (config["head_dim"],) for which in "qk"}
    return shapes


def _linear_shapes(described: Decoder, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, inner, heads = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    size = config.get("head_dim", hidden // heads)
    queries, keys = heads * size, config["num_key_value_heads"] * size
    before = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
    }
    gated = {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
    if described.fused:
        before = {"self_attn.qkv_proj": (queries + 2 * keys, hidden)}
        gated = {"mlp.gate_up_proj": (2 * inner, hidden)}
    if not described.gated:
        gated = {"mlp.up_proj": (inner, hidden)}
    out = {"self_attn.o_proj": (hidden, queries)}
    return {**before, **out, **gated, "mlp.down_proj": (hidden, inner)}


def _check_tensor(file: GgufFile, name: str, shape: tuple[int, ...]) -> None:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise BadInputError(str(file.path), f"tensor {name!r} is missing", str(shape), AGAIN)
    if tensor.shape != shape:
        found = f"tensor {name!r} has shape {tensor.shape}"
        raise BadInputError(str(file.path), found, str(shape), AGAIN)
