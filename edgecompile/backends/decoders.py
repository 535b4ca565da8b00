"""What a decoder's config says of its graph, and whether our own writer draws it."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
NORMS = ("input_layernorm", "post_attention_layernorm")
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")  # qwen3
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
OUT, DOWN = "self_attn.o_proj", "mlp.down_proj"
COMPUTED = {"*rotary_emb.inv_freq": "computed from rope_theta"}  # left out, with the reason


@dataclass(frozen=True)
class DecoderPlan:
    """Numbers of the graph, and the source's name of each tensor by its name in a causal model."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    epsilon: float
    windows: tuple[int, ...]  # positions that each layer's attention sees; -1: all
    tied: bool
    cos: Float32  # [context, head size / 2]
    sin: Float32
    frequencies: Float32  # [head size / 2]: cos = cos(position * frequency) * rope_factor
    rope_factor: float
    sources: Mapping[str, str]
    unused: Mapping[str, str]  # source tensor -> why it is not in the graph

    @property
    def head_norms(self) -> bool:
        """Whether each head of q and k is normalized before it is rotated."""
        return f"model.layers.0.{HEAD_NORMS[0]}.weight" in self.sources


def refusal(model: Model) -> str:
    """Why the graph is left to another writer, from config and headers; empty if it is not."""
    if model.architecture not in ARCHITECTURES:
        return f"architecture {model.architecture!r} is not one of {', '.join(ARCHITECTURES)}"
    config = _config(model)
    rope = config.rope_parameters
    if rope.get("rope_type") not in ROPES or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"rope {rope} is not one of {', '.join(ROPES)} on whole heads"
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act!r} is not 'silu'"
    sources = _sources(model)
    needed = set(_needed(config, sources))
    if missing := sorted(needed - sources.keys()):
        return f"no tensor {missing[0]!r}"
    left = sorted(n for n in sources.keys() - needed if not _computed(n))
    return f"tensor {left[0]!r} has no place" if left else ""


def plan(model: Model) -> DecoderPlan:
    """The plan of a model that `refusal` does not refuse."""
    config, sources = _config(model), _sources(model)
    frequencies, factor = rotary_frequencies(config)
    cos, sin = rotary_tables(config, frequencies, factor)
    needed = set(_needed(config, sources))
    return DecoderPlan(
        layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_size=_head_size(config),
        vocabulary=model.weights.infos[sources[EMBEDDING]].shape[0],
        epsilon=config.rms_norm_eps, windows=tuple(_windows(config)),
        tied=bool(config.tie_word_embeddings), cos=cos, sin=sin, frequencies=frequencies,
        rope_factor=factor,
        sources={name: source for name, source in sources.items() if name in needed},
        unused={s: _computed(n) for n, s in sources.items() if n not in needed},
    )  # fmt: skip


def rotary_frequencies(config: PretrainedConfig) -> tuple[Float32, float]:
    """Inverse frequencies float32 [head size / 2], and the factor of both cos and sin.

    transformers' own rules for a scaled rope.
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope, factor = config.rope_parameters, 1.0
    if rope["rope_type"] == "default":
        size = _head_size(config)
        exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
        frequencies = 1.0 / (rope["rope_theta"] ** exponents)
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    return frequencies.float().numpy(), float(factor)


def rotary_tables(
    config: PretrainedConfig, frequencies: Float32, factor: float
) -> tuple[Float32, Float32]:
    """cos and sin float32 [max_position_embeddings, head size / 2], as transformers has them."""
    import torch

    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = positions[:, None] * torch.from_numpy(frequencies)[None, :]
    return (angles.cos() * factor).numpy(), (angles.sin() * factor).numpy()


def _config(model: Model) -> PretrainedConfig:
    """The config with transformers' own defaults filled in."""
    from transformers import CONFIG_MAPPING

    settings: dict[str, Any] = {k: v for k, v in model.config.items() if k != "auto_map"}
    return CONFIG_MAPPING[model.architecture].from_dict(settings)


def _head_size(config: PretrainedConfig) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size)


def _windows(config: PretrainedConfig) -> Iterator[int]:
    """By layer_types where the config has them; Mistral's window is for all layers."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    for kind in kinds:
        yield int(window) if window and kind == "sliding_attention" else -1


def _sources(model: Model) -> dict[str, str]:
    """Name in a causal model -> the source's, which may lack the prefix `model.`."""
    found = {}
    for source in model.weights:
        prefixed = source.startswith(("model.", "lm_head."))
        found[source if prefixed else f"model.{source}"] = source
    return found


def _needed(config: PretrainedConfig, sources: Mapping[str, str]) -> Iterator[str]:
    """Tensors of the graph: every weight, and the biases that there are."""
    yield from (EMBEDDING, NORM)
    if not config.tie_word_embeddings:
        yield HEAD
    head_norms = HEAD_NORMS if config.model_type == "qwen3" else ()
    for layer in range(config.num_hidden_layers):
        start = f"model.layers.{layer}."
        yield from (f"{start}{name}.weight" for name in (*NORMS, *head_norms))
        for name in (*QKV, OUT, *GATE_UP, DOWN):
            yield f"{start}{name}.weight"
            if f"{start}{name}.bias" in sources:
                yield f"{start}{name}.bias"


def _computed(name: str) -> str:
    return next((why for pattern, why in COMPUTED.items() if fnmatchcase(name, pattern)), "")
