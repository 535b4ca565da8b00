"""Which architectures GGUF export knows, and where each of their tensors goes."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import gguf

from edgecompile.architectures import common

# Of a metadata key
Value = int | float | bool | str | list[str] | list[int] | list[float] | list[bool]


@dataclass(frozen=True)
class Layout:
    """What llama.cpp wants of one architecture beside what the gguf package's name map says."""

    arch: gguf.MODEL_ARCH
    prefix: str  # what source names may or may not begin with
    encoder: bool = False
    permuted: bool = False  # q and k rows are interleaved for the rotation of neighbours
    activations: tuple[str, ...] = ("silu",)
    windows: bool = False  # llama.cpp knows which layers see a window only
    biases: tuple[str, ...] = ()  # patterns of those that llama.cpp's graph adds

    @property
    def name(self) -> str:
        """`general.architecture` in the file."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])


GELU = ("gelu_pytorch_tanh",)
_LLAMA = Layout(gguf.MODEL_ARCH.LLAMA, "model.", permuted=True, biases=("blk.*.bias",))
# config's model_type -> layout
LAYOUTS: Mapping[str, Layout] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Layout(gguf.MODEL_ARCH.QWEN2, "model.", biases=("blk.*.attn_[qkv].bias",)),
    "qwen3": Layout(gguf.MODEL_ARCH.QWEN3, "model."),
    "phi3": Layout(gguf.MODEL_ARCH.PHI3, "model."),
    "granite": Layout(gguf.MODEL_ARCH.GRANITE, "model.", permuted=True, biases=("blk.*.bias",)),
    "gemma": Layout(gguf.MODEL_ARCH.GEMMA, "model.", activations=GELU),
    "gemma2": Layout(gguf.MODEL_ARCH.GEMMA2, "model.", activations=GELU, windows=True),
    "smollm3": Layout(gguf.MODEL_ARCH.SMOLLM3, "model.", permuted=True),
    "gemma3_text": Layout(gguf.MODEL_ARCH.GEMMA3, "model.", activations=GELU, windows=True),
    "gpt2": Layout(
        gguf.MODEL_ARCH.GPT2, "transformer.", activations=("gelu_new", *GELU), biases=("*",)
    ),
    "bert": Layout(
        gguf.MODEL_ARCH.BERT, "bert.", encoder=True, activations=("gelu",), biases=("*",)
    ),
}
# Tensors of a source that llama.cpp's graph has no use for
_UNUSED = {
    "*position_ids": "the numbers 0, 1, 2 ..., which the engine counts itself",
    "*rotary_emb.inv_freq": "computed from rope_theta",
    "*pooler.dense.*": "not part of a sentence embedding",
    "cls.*": "the head of pre-training",
    "*h.*.attn.bias": "the mask of attention, which is computed",
    "*h.*.attn.masked_bias": "the mask of attention, which is computed",
}
# Small tensors that llama.cpp adds or multiplies in float32 whatever their shape
_ALWAYS_FLOAT32 = ("token_types.weight", "position_embd.weight")


def unused_reason(name: str, config: Mapping[str, Any]) -> str:
    """Why a source tensor is left out of the file; empty if it must have a place."""
    if name == "lm_head.weight" and common(config).get("tie_word_embeddings"):
        return "the same as the embedding, which is stored once"
    return next((why for pattern, why in _UNUSED.items() if fnmatchcase(name, pattern)), "")


def stored_names(layout: Layout, layers: int, sources: Iterable[str]) -> dict[str, str]:
    """Source tensor name -> GGUF name, empty where llama.cpp has no place for it."""
    names = gguf.get_tensor_name_map(layout.arch, layers)
    return {
        source: str(names.get_name(_canonical(layout, source), (".weight", ".bias")) or "")
        for source in sources
    }


def has_place(layout: Layout, stored: str) -> bool:
    """Whether llama.cpp's graph uses that tensor; a bias that it does not know stops its loader."""
    is_bias = stored.endswith(".bias")
    return bool(stored) and (not is_bias or any(fnmatchcase(stored, p) for p in layout.biases))


def stays_float32(stored: str, shape: tuple[int, ...]) -> bool:
    """Vectors, norms and the tables that are added to activations."""
    return len(shape) < 2 or stored in _ALWAYS_FLOAT32


def rotated_heads(layout: Layout, stored: str, config: Mapping[str, Any]) -> int:
    """Number of heads whose rows are interleaved in that tensor; 0 for all but Llama's q and k."""
    if not layout.permuted:
        return 0
    heads = int(config["num_attention_heads"])
    if ".attn_q." in stored:
        return heads
    return int(config.get("num_key_value_heads") or heads) if ".attn_k." in stored else 0


def _canonical(layout: Layout, source: str) -> str:
    """The name as in a causal or plain encoder checkpoint, whichever wrapper wrote it."""
    bare = source.removeprefix(layout.prefix)
    if layout.encoder or bare.startswith("lm_head."):
        return bare
    return layout.prefix + bare
