"""Hyperparameters: from config.json to GGUF's keys, and from a GGUF back to the config's names."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from edgecompile.architectures import DECODERS
from edgecompile.backends.decoders import head_size, turned, windows
from edgecompile.backends.gguf_layout import LAYOUTS, Layout, Value
from edgecompile.model import Model
from edgecompile.sources.gguf_config import (
    CAPS,
    FACTORS,
    GEMMA2_27B,
    GEMMA_27B,
    WINDOW,
    exact,
    llama3_factors,
)
from edgecompile.sources.gguf_file import GgufFile
from edgecompile.structure import filled_in

if TYPE_CHECKING:
    from transformers import PretrainedConfig

POOLING = {
    "mean": gguf.PoolingType.MEAN,
    "cls": gguf.PoolingType.CLS,
    "lasttoken": gguf.PoolingType.LAST,
}
WHOLE, LOCAL = "full_attention", "sliding_attention"
_ROPES = ("default", "linear", "llama3")
# the config's name -> GGUF's key below the architecture
_INTEGERS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
}
_FLOATS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
}
NO_ROPE_STEP = 4  # SmolLM3: llama.cpp leaves every fourth layer without rotation


def hyperparameters(model: Model) -> dict[str, Value]:
    """GGUF keys and values of the model's architecture, in the order they are written."""
    config, layout = model.common_config, LAYOUTS[model.architecture]
    name = layout.name
    values: dict[str, Value] = {
        f"{name}.{key}": int(config[source])
        for source, key in _INTEGERS.items()
        if config.get(source) is not None
    }
    if layout.encoder:
        values[f"{name}.attention.layer_norm_epsilon"] = float(config["layer_norm_eps"])
        values[f"{name}.attention.causal"] = False
    else:
        whole = filled_in(model)
        values |= _decoder(whole, name)
        if layout.windows:
            values |= _windows(whole, name)
    if model.pooling:
        values[f"{name}.pooling_type"] = int(POOLING[model.pooling.mode])
    return values


def _decoder(config: PretrainedConfig, name: str) -> dict[str, Value]:
    size, family = head_size(config), DECODERS[config.model_type]
    kind = "norm" if family.centred else "norm_rms"
    values: dict[str, Value] = {
        f"{name}.attention.layer_{kind}_epsilon": float(getattr(config, family.epsilon)),
        f"{name}.attention.key_length": size,
        f"{name}.attention.value_length": size,
        **_rotation(config, name),
    }
    for key, stored in FACTORS.items():
        if getattr(config, key, None) is not None:
            values[f"{name}.{stored}"] = float(getattr(config, key))
    return values


def _rotation(config: PretrainedConfig, name: str) -> dict[str, Value]:
    """How heads turn; nothing where positions are a table."""
    rope = _rope(config)
    if not rope:
        return {}
    values: dict[str, Value] = {
        f"{name}.rope.dimension_count": turned(config, rope),
        f"{name}.rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] == "linear":
        values[f"{name}.rope.scaling.type"] = "linear"
        values[f"{name}.rope.scaling.factor"] = float(rope["factor"])
    return values


def _windows(config: PretrainedConfig, name: str) -> dict[str, Value]:
    """Which layers see a window, and the rotation of those where it is another one."""
    values: dict[str, Value] = {f"{name}.{WINDOW}": int(config.sliding_window)}
    if "rope_type" in config.rope_parameters:
        return values
    values[f"{name}.{WINDOW}_pattern"] = [kind == LOCAL for kind in config.layer_types]
    values[f"{name}.rope.freq_base_swa"] = float(_rope(config, LOCAL)["rope_theta"])
    return values


def _rope(config: PretrainedConfig, kind: str = WHOLE) -> Mapping[str, Any]:
    """Rotation rule; `kind` of layer matters where the two kinds turn differently. Empty: none."""
    ropes: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    return ropes if not ropes or "rope_type" in ropes else ropes[kind]


def rope_factors(model: Model) -> np.ndarray[Any, Any] | None:
    """Llama 3's frequency divisors float32 [head_dim / 2] for `rope_freqs.weight`, else None."""
    if LAYOUTS[model.architecture].encoder:
        return None
    config = filled_in(model)
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    factors = llama3_factors(float(rope["rope_theta"]), head_size(config) // 2, rope)
    return factors.astype(np.float32)


def config_refusal(model: Model, layout: Layout) -> str:
    """What in the config is missing, or llama.cpp would compute differently; empty if nothing."""
    config = model.common_config
    wrong = [key for key in _needed(model, layout) if not _is_number(config.get(key))]
    if wrong:
        name = _own(model, wrong[0])
        return f"config.json has {name} = {config.get(wrong[0])!r}, not a positive number"
    activation = config.get("hidden_activation") or config.get("hidden_act", layout.activations[0])
    if activation not in layout.activations:
        name = _own(model, "hidden_act")
        return f"{name} is {activation!r}; llama.cpp computes {layout.activations[0]!r}"
    if model.pooling and model.pooling.mode not in POOLING:
        return f"pooling is {model.pooling.mode!r}; llama.cpp knows {', '.join(POOLING)}"
    if layout.encoder:
        kind = config.get("position_embedding_type", "absolute")
        return "" if kind == "absolute" else f"position_embedding_type is {kind!r}, not 'absolute'"
    return _decoder_refusal(filled_in(model), layout)


def _decoder_refusal(config: PretrainedConfig, layout: Layout) -> str:
    if not getattr(config, "scale_attn_weights", True):
        return "scale_attn_weights is False; llama.cpp always divides scores"
    rope, size = _rope(config), head_size(config)
    if not rope:
        return _family_refusal(config, layout)
    if rope["rope_type"] not in _ROPES:
        return f"rope_type is {rope['rope_type']!r}; supported: {', '.join(_ROPES)}"
    if reason := _family_refusal(config, layout):
        return reason
    if turned(config, rope) == size or layout.arch == gguf.MODEL_ARCH.PHI3:
        return ""
    return f"only {turned(config, rope)} of a head's {size} numbers are rotated"


def _family_refusal(config: PretrainedConfig, layout: Layout) -> str:
    """What llama.cpp has fixed for a family where configs may differ."""
    count = config.num_hidden_layers
    if layout.arch == gguf.MODEL_ARCH.SMOLLM3:
        expected = [int((layer + 1) % NO_ROPE_STEP != 0) for layer in range(count)]
        found = config.no_rope_layers
        return "" if found == expected else f"no_rope_layers is {found}, not every fourth"
    wrong = [name for name in DECODERS[config.model_type].refused if getattr(config, name, None)]
    if wrong:
        return f"{wrong[0]} is {getattr(config, wrong[0])!r}"
    if layout.arch == gguf.MODEL_ARCH.GEMMA2:
        return _gemma2_refusal(config)
    return _gemma3_refusal(config) if layout.arch == gguf.MODEL_ARCH.GEMMA3 else ""


def _gemma2_refusal(config: PretrainedConfig) -> str:
    """llama.cpp has fixed which layers see a window, that there are caps, and the scale."""
    kinds = [(LOCAL, WHOLE)[layer % 2] for layer in range(config.num_hidden_layers)]
    if config.layer_types != kinds:
        return f"layer_types are {config.layer_types}; llama.cpp takes {LOCAL}, {WHOLE} by turns"
    if missing := [key for key in CAPS if not getattr(config, key)]:
        return f"{missing[0]} is {getattr(config, missing[0])}; llama.cpp always has one"
    size = head_size(config)
    if config.num_hidden_layers == GEMMA2_27B:
        size = config.hidden_size // config.num_attention_heads
    return _scale_refusal(config, size)


def _gemma3_refusal(config: PretrainedConfig) -> str:
    local = _rope(config, LOCAL)
    if local["rope_type"] != "default":
        return f"rope_type of {LOCAL} is {local['rope_type']!r}, not 'default'"
    if wrong := [key for key in CAPS if getattr(config, key, None)]:
        return f"{wrong[0]} is {getattr(config, wrong[0])!r}"
    if config.num_hidden_layers == GEMMA_27B:
        return ""
    return _scale_refusal(config, head_size(config))


def _scale_refusal(config: PretrainedConfig, size: int) -> str:
    """What llama.cpp divides scores by is the root of a size that it finds itself."""
    scalar = config.query_pre_attn_scalar
    return "" if scalar == size else f"query_pre_attn_scalar is {scalar}; llama.cpp takes {size}"


def _needed(model: Model, layout: Layout) -> list[str]:
    """Keys that must be in the config; some families' head_dim is not what the others imply."""
    if layout.encoder:
        return [*(key for key in _INTEGERS if key != "num_key_value_heads"), "layer_norm_eps"]
    named = ("qwen3", "gemma", "gemma2", "gemma3_text")
    extra = ["head_dim"] if model.architecture in named else []
    extra += ["sliding_window"] if layout.windows else []
    epsilon = DECODERS[model.architecture].epsilon
    return [*(key for key in _INTEGERS if key != "num_key_value_heads"), epsilon, *extra]


def _own(model: Model, key: str) -> str:
    """What the architecture's config calls it."""
    family = DECODERS.get(model.architecture)
    return family.settings.get(key, key) if family else key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 2**31


def context_length(model: Model) -> int:
    """Tokens for which attention is the source's: a window that llama.cpp has not ends it."""
    longest = int(model.common_config["max_position_embeddings"])
    if LAYOUTS[model.architecture].windows:
        return longest
    return min([longest, *(size for size in windows(filled_in(model)) if size > 0)])


def facts(file: GgufFile) -> dict[str, float]:
    """Hyperparameters in the file under the config's names; float32 as its shortest decimal."""
    name = file.need("general.architecture", str)
    found: dict[str, float] = {}
    if "token_embd.weight" in file.tensors:
        found["vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    for key, stored in _INTEGERS.items():
        if f"{name}.{stored}" in file.metadata:
            found[key] = file.need(f"{name}.{stored}", int)
    for key, stored in (_FLOATS | FACTORS).items():
        if f"{name}.{stored}" in file.metadata:
            found[key] = exact(file.need(f"{name}.{stored}", float))
    epsilons = [found[key] for key in ("rms_norm_eps", "layer_norm_eps") if key in found]
    return found | ({"norm_eps": epsilons[0]} if epsilons else {})
