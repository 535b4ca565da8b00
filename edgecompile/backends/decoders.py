"""What a decoder's config says of its graph, and whether our own writer draws it."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.architectures import DECODERS, Decoder, Norms, norm_offsets, unknown
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.structure import filled_in

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ROPES = ("default", "linear", "llama3", "yarn", "longrope")
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
UP = "mlp.up_proj"
GATE_UP = ("mlp.gate_proj", UP)
FUSED_QKV, FUSED_GATE_UP = "self_attn.qkv_proj", "mlp.gate_up_proj"  # phi3
POSITION_TABLE = "model.embed_positions.weight"  # gpt2
OUT, DOWN = "self_attn.o_proj", "mlp.down_proj"
MASK = "the mask of attention, which is computed"
ATTENTION_CAP, LOGITS_CAP = "attn_logit_softcapping", "final_logit_softcapping"
COMPUTED = {  # left out, with the reason
    "*rotary_emb.inv_freq": "computed from rope_theta",
    "model.layers.*.attn.bias": MASK, "model.layers.*.attn.masked_bias": MASK,  # of old GPT-2
}  # fmt: skip


@dataclass(frozen=True)
class Rotary:
    """How positions turn heads (Su et al. 2021)."""

    cos: Float32  # [context, half of what is turned of a head]
    sin: Float32
    frequencies: Float32  # [the same half]: cos = cos(position * frequency) * factor
    factor: float

    @property
    def size(self) -> int:
        """How many numbers of a head are turned: the first ones."""
        return 2 * len(self.frequencies)


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
    rotaries: tuple[Rotary, ...]
    turns: tuple[int, ...]  # which of `rotaries` each layer has; -1: none
    activation: str  # silu, gelu_tanh
    embedding_scale: float
    attention_scale: float  # of q k before its softmax
    residual_scale: float  # of what a block adds to the stream
    logits_scale: float
    attention_cap: float  # scores become cap * tanh(score / cap); 0: they stay
    logits_cap: float
    architecture: str
    sources: Mapping[str, str]
    unused: Mapping[str, str]  # source tensor -> why it is not in the graph

    @property
    def family(self) -> Decoder:
        """What sets the architecture apart."""
        return DECODERS[self.architecture]

    @property
    def qkv(self) -> tuple[str, ...]:
        """Names of the products before attention, in a layer."""
        return (FUSED_QKV,) if self.family.fused else QKV

    @property
    def gate_up(self) -> tuple[str, ...]:
        """Names of the products before the activation, in a layer; `up` alone without a gate."""
        return _gate_up(self.family)

    @property
    def head_counts(self) -> tuple[int, int, int]:
        """Heads of q, k and v."""
        return self.heads, self.kv_heads, self.kv_heads

    @property
    def norms(self) -> Norms:
        """Names of each layer's norms."""
        return self.family.norms

    def norm_weight(self, model: Model, source: str) -> Float32:
        """What a norm multiplies with: its tensor, and the family's offset."""
        return model.dense(source) + np.float32(self.family.norm_offset)

    @property
    def shifted(self) -> dict[str, float]:
        """Source tensors of norms -> what the file's values have more than theirs."""
        return norm_offsets(self.architecture, self.sources.values())


def refusal(model: Model) -> str:
    """Why the graph is left to another writer, from config and headers; empty if it is not."""
    family = DECODERS.get(model.architecture)
    if family is None:
        return unknown(model.architecture, DECODERS)
    config = filled_in(model)
    for rope in _ropes(config).values():
        if rope.get("rope_type") not in ROPES:
            return f"rope {rope} is not one of {', '.join(ROPES)}"
        if turned(config, rope) % 2:
            return f"rope turns {turned(config, rope)} numbers of a head, not pairs"
    activation = _activation(config, family)
    if activation not in family.activations:
        return f"activation {activation!r} is not one of {', '.join(family.activations)}"
    if wrong := [name for name in family.refused if getattr(config, name, None)]:
        return f"{wrong[0]} is {getattr(config, wrong[0])!r}"
    sources = _sources(model)
    needed = set(_needed(config, sources))
    if missing := sorted(needed - sources.keys()):
        return f"no tensor {missing[0]!r}"
    left = sorted(n for n in sources.keys() - needed if not _computed(n))
    return f"tensor {left[0]!r} has no place" if left else ""


def capped(model: Model) -> str:
    """Which cap on scores or logits the config sets, for engines that compute none; or empty."""
    config = filled_in(model)
    caps = [n for n in (ATTENTION_CAP, LOGITS_CAP) if getattr(config, n, None)]
    return f"{caps[0]} is {getattr(config, caps[0])}" if caps else ""


def plan(model: Model) -> DecoderPlan:
    """The plan of a model that `refusal` does not refuse."""
    config, sources = filled_in(model), _sources(model)
    family, size = DECODERS[model.architecture], head_size(config)
    ropes = _ropes(config)
    needed = set(_needed(config, sources))
    return DecoderPlan(
        layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv_heads=family.setting(config, "num_key_value_heads"), head_size=size,
        vocabulary=model.weights.infos[sources[EMBEDDING]].shape[0],
        epsilon=getattr(config, family.epsilon), windows=tuple(windows(config)),
        tied=bool(config.tie_word_embeddings),
        rotaries=tuple(rotary(config, kind) for kind in ropes), turns=tuple(_turns(config)),
        activation=family.activations[_activation(config, family)],
        embedding_scale=_embedding_scale(config, family),
        attention_scale=_attention_scale(config, size),
        residual_scale=float(getattr(config, "residual_multiplier", 1.0)),
        logits_scale=1.0 / float(getattr(config, "logits_scaling", 1.0)),
        attention_cap=float(getattr(config, ATTENTION_CAP, None) or 0.0),
        logits_cap=float(getattr(config, LOGITS_CAP, None) or 0.0),
        architecture=model.architecture,
        sources={name: source for name, source in sources.items() if name in needed},
        unused={s: _computed(n) for n, s in sources.items() if n not in needed},
    )  # fmt: skip


def _embedding_scale(config: PretrainedConfig, family: Decoder) -> float:
    """Gemma's is the root of the width, Granite's a number of the config."""
    if family.scaled_embedding:
        return float(config.hidden_size**0.5)
    return float(getattr(config, "embedding_multiplier", 1.0))


def _attention_scale(config: PretrainedConfig, size: int) -> float:
    if not getattr(config, "scale_attn_weights", True):  # GPT-2's
        return 1.0
    multiplier = getattr(config, "attention_multiplier", None)
    if multiplier is not None:
        return float(multiplier)
    return float(getattr(config, "query_pre_attn_scalar", size) ** -0.5)


def rotary_width(model: Model) -> int:
    """Numbers in one position's rows of all cos and sin tables, from the config alone."""
    config = filled_in(model)
    return sum(turned(config, rope) for rope in _ropes(config).values())


def rotary(config: PretrainedConfig, kind: str = "") -> Rotary:
    """Tables of the layers of that kind (empty: of all), by transformers' own rules."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope, factor = _ropes(config)[kind], 1.0
    if rope["rope_type"] == "default":
        size = turned(config, rope)
        exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
        frequencies = 1.0 / (rope["rope_theta"] ** exponents)
    else:
        named = {"layer_type": kind} if kind else {}
        frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", **named)
    positions = torch.arange(_positions(config), dtype=torch.float32)
    angles = positions[:, None] * frequencies.float()[None, :]
    return Rotary(
        (angles.cos() * factor).numpy(), (angles.sin() * factor).numpy(),
        frequencies.float().numpy(), float(factor),
    )  # fmt: skip


def context_limit(model: Model) -> int:
    """Positions that the tables are for: longrope turns otherwise beyond those of its training."""
    return _positions(filled_in(model))


def context_option(model: Model) -> dict[str, int]:
    """What the manifest says of it where the model says more."""
    limit = context_limit(model)
    stated = int(model.common_config.get("max_position_embeddings", limit))
    return {"context_length": limit} if limit < stated else {}


def _positions(config: PretrainedConfig) -> int:
    trained = [
        int(rope["original_max_position_embeddings"]) for rope in _ropes(config).values()
        if rope.get("rope_type") == "longrope"
    ]  # fmt: skip
    return min([int(config.max_position_embeddings), *trained])


def turned(config: PretrainedConfig, rope: Mapping[str, Any]) -> int:
    """How many numbers of a head turn: the first ones."""
    return int(head_size(config) * rope.get("partial_rotary_factor", 1.0))


def _ropes(config: PretrainedConfig) -> dict[str, Mapping[str, Any]]:
    """Rotation rules by kind of layer; under an empty name where all layers share one."""
    ropes = getattr(config, "rope_parameters", None)
    if not ropes:
        return {}
    if "rope_type" in ropes:
        return {"": ropes}
    return {kind: ropes[kind] for kind in sorted(set(config.layer_types))}


def _turns(config: PretrainedConfig) -> Iterator[int]:
    """Each layer's rotation, by number; SmolLM3 has layers without, GPT-2 has none."""
    kinds = list(_ropes(config))
    if not kinds:
        yield from [-1] * config.num_hidden_layers
        return
    turned = getattr(config, "no_rope_layers", None) or [1] * config.num_hidden_layers
    for layer, has_rope in enumerate(turned):
        kind = kinds[0] if len(kinds) == 1 else config.layer_types[layer]
        yield kinds.index(kind) if has_rope else -1


def _activation(config: PretrainedConfig, family: Decoder) -> str:
    named = getattr(config, "hidden_activation", None)
    return str(named or family.setting(config, "hidden_act"))


def _gate_up(family: Decoder) -> tuple[str, ...]:
    if not family.gated:
        return (UP,)
    return (FUSED_GATE_UP,) if family.fused else GATE_UP


def head_size(config: PretrainedConfig) -> int:
    """Columns of one attention head."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size)


def windows(config: PretrainedConfig) -> Iterator[int]:
    """Positions that each layer's attention sees, -1: all. Mistral's window is for all layers."""
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    for kind in kinds:
        yield int(window) if window and kind == "sliding_attention" else -1


def _sources(model: Model) -> dict[str, str]:
    """Name in a causal model -> the source's, which may lack a prefix, or name parts otherwise."""
    names = DECODERS[model.architecture].names
    return {names.common(source): source for source in model.weights}


def _needed(config: PretrainedConfig, sources: Mapping[str, str]) -> Iterator[str]:
    """Tensors of the graph: every weight, and the biases that there are."""
    family = DECODERS[config.model_type]
    yield EMBEDDING
    if family.positions:
        yield POSITION_TABLE
    yield from _norm_tensors(NORM.removesuffix(".weight"), family)
    if not config.tie_word_embeddings:
        yield HEAD
    head_norms = HEAD_NORMS if family.head_norms else ()
    for layer in range(config.num_hidden_layers):
        start = f"model.layers.{layer}."
        for name in (*family.norms.names, *head_norms):
            yield from _norm_tensors(start + name, family)
        for name in (*((FUSED_QKV,) if family.fused else QKV), *_gate_up(family), OUT, DOWN):
            yield f"{start}{name}.weight"
            if f"{start}{name}.bias" in sources:
                yield f"{start}{name}.bias"


def _norm_tensors(name: str, family: Decoder) -> Iterator[str]:
    yield f"{name}.weight"
    if family.centred:
        yield f"{name}.bias"


def _computed(name: str) -> str:
    return next((why for pattern, why in COMPUTED.items() if fnmatchcase(name, pattern)), "")
