"""Architectures: what sets each apart, for the sources and backends that draw it by themselves.

Names are the config's model_type, and those of tensors in a Hugging Face checkpoint.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Norms:
    """Names of a layer's norms: of what enters attention and MLP, and of what leaves them."""

    into_attention: str = "input_layernorm"
    out_of_attention: str = ""  # empty: there is none
    into_mlp: str = "post_attention_layernorm"
    out_of_mlp: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        every = (self.into_attention, self.out_of_attention, self.into_mlp, self.out_of_mlp)
        return tuple(name for name in every if name)


@dataclass(frozen=True)
class Names:
    """What an architecture calls modules that go by Llama's names here."""

    prefix: str = "model."  # of all but the head; a checkpoint may lack it
    layer: str = "layers."  # below it
    modules: Mapping[str, str] = field(default_factory=dict)  # its name -> Llama's

    def common(self, name: str) -> str:
        """A tensor's name in Llama's checkpoints: `model.layers.0.` and so on."""
        if name.startswith("lm_head."):
            return name
        module, _, leaf = name.removeprefix(self.prefix).rpartition(".")
        start = "model."
        if module.startswith(self.layer):
            number, _, module = module.removeprefix(self.layer).partition(".")
            start = f"model.layers.{number}."
        return ".".join((start + self.modules.get(module, module), leaf))

    def stored(self, name: str) -> str:
        """What `common` made that name of, with the prefix."""
        if name.startswith("lm_head."):
            return name
        module, _, leaf = name.removeprefix("model.").rpartition(".")
        start = self.prefix
        if module.startswith("layers."):
            number, _, module = module.removeprefix("layers.").partition(".")
            start += f"{self.layer}{number}."
        return f"{start}{self.own(module)}.{leaf}"

    def own(self, module: str) -> str:
        """What is called `module` in Llama's checkpoints, below the prefix or a layer."""
        return next((own for own, name in self.modules.items() if name == module), module)


@dataclass(frozen=True)
class Decoder:
    """What sets an architecture's decoder apart from Llama's."""

    norms: Norms = Norms()
    names: Names = Names()
    settings: Mapping[str, str] = field(default_factory=dict)  # Llama's word -> the config's
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where the config does not say
    turned: tuple[str, ...] = ()  # patterns of matrices that checkpoints have as [in, out]
    epsilon: str = "rms_norm_eps"  # the config's name for what keeps norms from dividing by 0
    centred: bool = False  # norms are LayerNorm, with biases; else RMSNorm
    positions: bool = False  # a table of positions is added to the embedding; else heads turn
    free_heads: bool = True  # their size is a setting; else the width is heads times size
    gated: bool = True  # the MLP multiplies with a gate; else its activation is of `up`
    head_norms: bool = False  # each head of q and k is normalized before it is rotated
    norm_offset: float = 0.0  # what a norm multiplies with, less its tensor
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu"})
    scaled_embedding: bool = False  # times the root of the width
    fused: bool = False  # q, k and v are one tensor, and so are gate and up
    refused: tuple[str, ...] = ()  # settings that no graph here computes

    def setting(self, config: Any, word: str) -> Any:
        """What the config's class says under Llama's word; None where it has no such setting."""
        return getattr(config, self.settings.get(word, word), None)


GELU = {"gelu_pytorch_tanh": "gelu_tanh"}  # config's word -> ours
BOTH_WAYS = "use_bidirectional_attention"
FOUR_NORMS = Norms(
    out_of_attention="post_attention_layernorm", into_mlp="pre_feedforward_layernorm",
    out_of_mlp="post_feedforward_layernorm",
)  # fmt: skip
DECODERS: Mapping[str, Decoder] = {
    "llama": Decoder(),
    "mistral": Decoder(),
    "qwen2": Decoder(),
    "qwen3": Decoder(head_norms=True),
    "smollm3": Decoder(),
    "phi3": Decoder(fused=True),
    "granite": Decoder(),
    "gemma": Decoder(
        norm_offset=1.0, activations=GELU, scaled_embedding=True, refused=(BOTH_WAYS,)
    ),
    "gemma2": Decoder(
        norms=FOUR_NORMS, norm_offset=1.0, activations=GELU, scaled_embedding=True,
        refused=(BOTH_WAYS,),
    ),
    "gemma3_text": Decoder(
        norms=FOUR_NORMS, head_norms=True, norm_offset=1.0, activations=GELU,
        scaled_embedding=True, refused=(BOTH_WAYS,),
    ),
    "gpt2": Decoder(
        names=Names("transformer.", "h.", {
            "wte": "embed_tokens", "wpe": "embed_positions", "ln_f": "norm",
            "ln_1": "input_layernorm", "attn.c_attn": "self_attn.qkv_proj",
            "attn.c_proj": "self_attn.o_proj", "ln_2": "post_attention_layernorm",
            "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj",
        }),
        settings={
            "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head", "num_key_value_heads": "n_head",
            "max_position_embeddings": "n_positions", "intermediate_size": "n_inner",
            "hidden_act": "activation_function",
        },
        defaults={"tie_word_embeddings": True},
        turned=("*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight"),
        epsilon="layer_norm_epsilon", centred=True, positions=True, free_heads=False,
        gated=False, fused=True,
        activations={"gelu_new": "gelu_tanh", **GELU},
        refused=("scale_attn_by_inverse_layer_idx", "add_cross_attention"),
    ),
}  # fmt: skip
WIDENING = 4  # of a GPT-2 MLP whose config names no width


def unknown(architecture: str, known: Iterable[str]) -> str:
    """The refusal of an architecture that is not among those known."""
    return f"architecture {architecture!r} is not one of {', '.join(known)}"


def common(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with the names that Llama's has, beside its own where those are others."""
    family = DECODERS.get(str(config.get("model_type")))
    if family is None or not family.settings:
        return config
    found = {name: config[own] for name, own in family.settings.items() if own in config}
    width = found.get("hidden_size")
    if isinstance(width, int) and found.get("intermediate_size") is None:
        found["intermediate_size"] = WIDENING * width
    return {**family.defaults, **config, **found}


def turned(architecture: str, name: str) -> bool:
    """Whether checkpoints have that matrix as [in, out], which is [out, in] everywhere here."""
    patterns = DECODERS[architecture].turned if architecture in DECODERS else ()
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class WordHead:
    """Names of the head that guesses words behind masks; its last weight may be the embedding."""

    dense: str = "lm_head.dense"
    norm: str = "lm_head.layer_norm"
    out: str = "lm_head.decoder"
    bias: str = "lm_head.bias"


@dataclass(frozen=True)
class Encoder:
    """Names of an encoder's tensors without `.weight`; below `prefix` where there is a head."""

    prefix: str
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    kinds: str = "embeddings.token_type_embeddings"  # empty: a token is of no sentence
    norm: str = "embeddings.LayerNorm"
    layer: str = "encoder.layer.{}."  # what the following names are below
    qkv: tuple[str, ...] = ("attention.self.query", "attention.self.key", "attention.self.value")
    out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"
    head: tuple[str, str] = ("", "classifier")  # of classes, from the first token; whole names
    head_activation: str = "tanh"
    word_head: WordHead = WordHead()
    after_padding: bool = False  # positions count from the padding id + 1
    padding: int | None = None  # that id, whatever the config says
    distances: str = ""  # a table of what is added to scores by distance; empty: nothing is
    epsilon: float = 0.0  # of its norms; 0: the config's layer_norm_eps
    neurons: str = "intermediate_size"  # the config's name for an MLP's width


_ROBERTA = Encoder(
    "roberta.", head=("classifier.dense", "classifier.out_proj"), after_padding=True
)
ENCODERS: Mapping[str, Encoder] = {
    "bert": Encoder(
        "bert.", head=("bert.pooler.dense", "classifier"),
        word_head=WordHead(
            "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder", "cls.predictions.bias",
        ),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": Encoder(
        "mpnet.", kinds="",
        qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"), out="attention.attn.o",
        attention_norm="attention.LayerNorm", head=("classifier.dense", "classifier.out_proj"),
        after_padding=True, padding=1, distances="encoder.relative_attention_bias",
    ),
    "distilbert": Encoder(
        "distilbert.", kinds="", layer="transformer.layer.{}.",
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"), out="attention.out_lin",
        attention_norm="sa_layer_norm", up="ffn.lin1", down="ffn.lin2",
        mlp_norm="output_layer_norm", head=("pre_classifier", "classifier"),
        head_activation="relu", epsilon=1e-12, neurons="hidden_dim",
        word_head=WordHead(
            "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
        ),
    ),
}  # fmt: skip


# Heads of all layers share one table of distances: none can go from one layer alone.
PRUNABLE = {name: encoder for name, encoder in ENCODERS.items() if not encoder.distances}


def first_position(architecture: str, config: Mapping[str, Any]) -> int:
    """Row of the position table that a text's first token takes."""
    described = ENCODERS.get(architecture)
    if described is None or not described.after_padding:
        return 0
    padding = config.get("pad_token_id") if described.padding is None else described.padding
    return (1 if padding is None else int(padding)) + 1


def norm_offsets(architecture: str, tensors: Iterable[str]) -> dict[str, float]:
    """Those of the tensors that are norms -> what a norm multiplies with, less the tensor.

    Empty where that is nothing, and for an architecture without a description.
    """
    offset = DECODERS.get(architecture, Decoder()).norm_offset
    return {name: offset for name in tensors if offset and name.endswith("norm.weight")}
