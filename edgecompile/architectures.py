"""Architectures: what sets each apart, for the sources and backends that draw it by themselves.

Names are the config's model_type, and those of tensors in a Hugging Face checkpoint.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


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
class Family:
    """What sets an architecture's decoder apart from Llama's."""

    norms: Norms = Norms()
    head_norms: bool = False  # each head of q and k is normalized before it is rotated
    norm_offset: float = 0.0  # what a norm multiplies with, less its tensor
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu"})
    scaled_embedding: bool = False  # times the root of the width
    fused: bool = False  # q, k and v are one tensor, and so are gate and up
    refused: tuple[str, ...] = ()  # settings that no graph here computes


GELU = {"gelu_pytorch_tanh": "gelu_tanh"}  # config's word -> ours
DECODERS: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(head_norms=True),
    "smollm3": Family(),
    "phi3": Family(fused=True),
    "gemma3_text": Family(
        norms=Norms(
            out_of_attention="post_attention_layernorm", into_mlp="pre_feedforward_layernorm",
            out_of_mlp="post_feedforward_layernorm",
        ),
        head_norms=True, norm_offset=1.0, activations=GELU, scaled_embedding=True,
        refused=(
            "attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention",
        ),
    ),
}  # fmt: skip


def norm_offsets(architecture: str, tensors: Iterable[str]) -> dict[str, float]:
    """Those of the tensors that are norms -> what a norm multiplies with, less the tensor.

    Empty where that is nothing, and for an architecture without a description.
    """
    offset = DECODERS.get(architecture, Family()).norm_offset
    return {name: offset for name in tensors if offset and name.endswith("norm.weight")}
