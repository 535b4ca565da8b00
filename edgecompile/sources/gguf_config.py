"""config.json and the table of tensors that a GGUF's metadata stands for, by Hugging Face names."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np

from edgecompile.architectures import DECODERS, Decoder
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources.gguf_file import AGAIN, FROM_FOLDER, GgufFile
from edgecompile.sources.gguf_tokenizer import SPECIAL_IDS, special_id

ROPE_FREQS = "rope_freqs.weight"
WINDOW = "attention.sliding_window"
# Layers: llama.cpp scales the attention of those two models by the width of their heads
GEMMA_27B, GEMMA2_27B = 62, 46
FACTORS = {  # the config's name -> GGUF's key below the architecture
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True)
class Family:
    """What differs between decoder architectures that share Llama's layout."""

    arch: gguf.MODEL_ARCH
    class_name: str
    model_type: str  # in config.json
    permuted: bool = False  # q and k rows are interleaved for llama.cpp's rope
    qkv_bias: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, "LlamaForCausalLM", "llama", permuted=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, "Qwen2ForCausalLM", "qwen2", qkv_bias=True),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3, "Qwen3ForCausalLM", "qwen3"),
    "phi3": Family(gguf.MODEL_ARCH.PHI3, "Phi3ForCausalLM", "phi3"),
    "smollm3": Family(gguf.MODEL_ARCH.SMOLLM3, "SmolLM3ForCausalLM", "smollm3", permuted=True),
    "granite": Family(gguf.MODEL_ARCH.GRANITE, "GraniteForCausalLM", "granite", permuted=True),
    "gemma": Family(gguf.MODEL_ARCH.GEMMA, "GemmaForCausalLM", "gemma"),
    "gemma2": Family(gguf.MODEL_ARCH.GEMMA2, "Gemma2ForCausalLM", "gemma2"),
    "gpt2": Family(gguf.MODEL_ARCH.GPT2, "GPT2LMHeadModel", "gpt2"),
    "gemma3": Family(gguf.MODEL_ARCH.GEMMA3, "Gemma3ForCausalLM", "gemma3_text"),
}


def family(file: GgufFile) -> Family:
    """The architecture's entry; one that is not supported is an UnsupportedError."""
    name = file.need("general.architecture", str)
    if name not in FAMILIES:
        found = f"architecture {name!r}"
        raise UnsupportedError(str(file.path), found, " or ".join(FAMILIES), FROM_FOLDER)
    return FAMILIES[name]


def exact(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 9.99999974e-06 was 1e-05."""
    return float(str(np.float32(value)))


def config(file: GgufFile) -> dict[str, Any]:
    """config.json of the model: hyperparameters from metadata, flags from the tensors present."""
    kind = family(file)
    name, described = file.metadata["general.architecture"], DECODERS[kind.model_type]
    sizes = _sizes(file, name)
    result: dict[str, Any] = {
        "architectures": [kind.class_name],
        "model_type": kind.model_type,
        "dtype": "float32",
        **_activation(kind),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        **sizes,
        **_norms_and_rope(file, name, described),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_flags(file, name),
    }
    scaling = _rope_scaling(file, name, result)
    if scaling:
        result["rope_scaling"] = scaling
    result |= {
        key: _positive_float(file, f"{name}.{stored}")
        for key, stored in FACTORS.items() if f"{name}.{stored}" in file.metadata
    }  # fmt: skip
    if name == "gemma2":
        result |= _every_other(file, name, result)
    elif name == "gemma3":
        result |= _windows(file, name, result)
    elif name == "phi3" and file.get(f"{name}.{WINDOW}", int, 0):
        result["sliding_window"] = _positive(file, f"{name}.{WINDOW}")
    for token, key in SPECIAL_IDS.items():
        if token != "unk_token" and special_id(file, key) is not None:
            result[f"{token}_id"] = special_id(file, key)
    return {"pad_token_id": None, **_own_words(described, result)}  # its default may be no token


def _norms_and_rope(file: GgufFile, name: str, described: Decoder) -> dict[str, float]:
    kind = "norm" if described.centred else "norm_rms"
    epsilon = _positive_float(file, f"{name}.attention.layer_{kind}_epsilon")
    if described.positions:
        return {described.epsilon: epsilon}
    theta = _positive_float(file, f"{name}.rope.freq_base", 10000.0)
    return {described.epsilon: epsilon, "rope_theta": theta}


def _own_words(described: Decoder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as the architecture's own class calls its settings, without what it has not."""
    absent = () if described.free_heads else ("num_key_value_heads", "head_dim", "attention_bias")
    words = described.settings
    return {words.get(key, key): value for key, value in config.items() if key not in absent}


def _sizes(file: GgufFile, name: str) -> dict[str, int]:
    """Extents, each bounded by the tensors that must have them."""
    hidden = _positive(file, f"{name}.embedding_length")
    heads = _positive(file, f"{name}.attention.head_count")
    layers = _positive(file, f"{name}.block_count")
    if layers > len(file.tensors):
        found = f"{name}.block_count is {layers}"
        expected = f"at most the number of tensors ({len(file.tensors)})"
        raise BadInputError(str(file.path), found, expected, AGAIN)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise BadInputError(str(file.path), "no token_embd.weight", "a whole model", AGAIN)
    tokens = file.need("tokenizer.ggml.tokens", list)
    if len(tokens) > embedding.shape[0]:
        found = f"{len(tokens)} tokens, but {embedding.shape[0]} rows of embedding"
        raise BadInputError(str(file.path), found, "a row a token", AGAIN)
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": _positive(file, f"{name}.feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _positive(file, f"{name}.attention.head_count_kv", heads),
        "head_dim": _head_size(file, name, hidden, heads),
        "max_position_embeddings": _positive(file, f"{name}.context_length"),
    }


def _positive(file: GgufFile, key: str, default: int | None = None) -> int:
    if isinstance(file.metadata.get(key), list):
        found = f"{key} differs from layer to layer"
        raise UnsupportedError(str(file.path), found, "one number", FROM_FOLDER)
    value = file.need(key, int) if default is None else file.get(key, int, default)
    if value < 1:
        raise BadInputError(str(file.path), f"{key} is {value}", "a positive number", AGAIN)
    return int(value)


def _positive_float(file: GgufFile, key: str, default: float | None = None) -> float:
    value = file.need(key, float) if default is None else file.get(key, float, default)
    if not 0 < value < math.inf:
        raise BadInputError(str(file.path), f"{key} is {value}", "a positive number", AGAIN)
    return exact(value)


def _head_size(file: GgufFile, name: str, hidden: int, heads: int) -> int:
    size = _positive(file, f"{name}.attention.key_length", max(hidden // heads, 1))
    same = {
        key: file.get(f"{name}.{key}", int, size)
        for key in ("attention.value_length", "rope.dimension_count")
    }
    for key, value in same.items():
        if value != size:
            found = f"{name}.{key} is {value} where a head has {size} columns"
            raise UnsupportedError(str(file.path), found, "equal numbers", FROM_FOLDER)
    return size


def _flags(file: GgufFile, name: str) -> dict[str, Any]:
    if file.get(f"{name}.expert_count", int, 0):
        found = f"a mixture of {file.metadata[f'{name}.expert_count']} experts"
        raise UnsupportedError(str(file.path), found, "a dense model", FROM_FOLDER)
    if name in ("llama", "granite"):
        attention = "blk.0.attn_q.bias" in file.tensors
        return {"attention_bias": attention, "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors}
    biased = {} if name == "qwen2" else {"attention_bias": False}
    return {"use_sliding_window": False, **biased} if name.startswith("qwen") else biased


def _activation(kind: Family) -> dict[str, str]:
    described = DECODERS[kind.model_type]
    word = next(iter(described.activations))
    older = word == "silu" or kind.model_type == "gemma" or "hidden_act" in described.settings
    return {"hidden_act" if older else "hidden_activation": word}


def _every_other(file: GgufFile, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 2: layers 0, 2, ... see a window; scores and logits have caps, whose defaults are its.

    (llama.cpp's rules where a file leaves a key out.)
    """
    width = config["hidden_size"] // config["num_attention_heads"]
    wide = config["num_hidden_layers"] == GEMMA2_27B
    return {
        "sliding_window": _positive(file, f"{name}.{WINDOW}", 4096),
        "query_pre_attn_scalar": width if wide else config["head_dim"],
    }


def _windows(file: GgufFile, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 3's layers that see a window: listed, or every sixth sees all."""
    window = f"{name}.{WINDOW}"
    layers, listed = config["num_hidden_layers"], file.metadata.get(f"{window}_pattern", 6)
    if not isinstance(listed, list):
        listed = [(layer + 1) % int(listed) != 0 for layer in range(layers)]
    if len(listed) != layers:
        found = f"{window}_pattern has {len(listed)} entries"
        raise BadInputError(str(file.path), found, f"{layers}, one a layer", AGAIN)
    size = config["head_dim"]
    return {
        "sliding_window": _positive(file, window),
        "layer_types": ["sliding_attention" if one else "full_attention" for one in listed],
        "rope_local_base_freq": _positive_float(file, f"{name}.rope.freq_base_swa", 10000.0),
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"]
        if layers == GEMMA_27B else size,
    }  # fmt: skip


def _rope_scaling(file: GgufFile, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if ROPE_FREQS in file.tensors:
        return _llama3_scaling(file, config)
    kind = file.get(f"{name}.rope.scaling.type", str, "none")
    factor = _positive_float(file, f"{name}.rope.scaling.factor", 1.0)
    factor = _positive_float(file, f"{name}.rope.scale_linear", factor)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    found = f"{name}.rope.scaling.type is {kind!r}"
    raise UnsupportedError(str(file.path), found, "none, linear or Llama 3's factors", FROM_FOLDER)


def _llama3_scaling(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3's rule if the file's frequency factors are its result, within float32 rounding."""
    tensor = file.tensors[ROPE_FREQS]
    half = config["head_dim"] // 2
    if tensor.type is not gguf.GGMLQuantizationType.F32 or tensor.shape != (half,):
        found = f"{ROPE_FREQS} is {tensor.type.name} {tensor.shape}"
        raise BadInputError(str(file.path), found, f"F32 ({half},)", AGAIN)
    factors = file.raw(tensor).view("<f4").reshape(-1)
    factor = exact(float(factors.max()))
    rule = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(factors, llama3_factors(config["rope_theta"], half, rule), rtol=1e-5):
        found = f"{ROPE_FREQS} {factors[:4].tolist()}... is not Llama 3's rule for factor {factor}"
        raise UnsupportedError(str(file.path), found, "its usual constants", FROM_FOLDER)
    return rule


def llama3_factors(theta: float, half: int, rule: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Divisors of the rope frequencies, float64 [half] (Llama 3.1's long-context rule)."""
    low, high = rule["low_freq_factor"], rule["high_freq_factor"]
    turns = theta ** (-np.arange(half) / half) / (2 * math.pi)  # per token
    turns = turns * rule["original_max_position_embeddings"]  # over the trained context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: np.ndarray[Any, Any] = 1.0 / ((1.0 - smooth) / rule["factor"] + smooth)
    return factors
