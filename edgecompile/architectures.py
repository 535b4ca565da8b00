"""Architectures: what sets each apart, for the sources and backends that draw it by themselves.

Names are the config's model_type, and those of tensors in a Hugging Face checkpoint.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
class Decoder:
    """What sets an architecture's decoder apart from Llama's."""

    norms: Norms = Norms()
    head_norms: bool = False  # each head of q and k is normalized before it is rotated
    norm_offset: float = 0.0  # what a norm multiplies with, less its tensor
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu"})
    scaled_embedding: bool = False  # times the root of the width
    fused: bool = False  # q, k and v are one tensor, and so are gate and up
    refused: tuple[str, ...] = ()  # settings that no graph here computes


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
}  # fmt: skip


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
