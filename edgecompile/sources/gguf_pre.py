"""Pre-tokenizers: `tokenizer.ggml.pre` names a rule that tokenizer.json spells out, and back.

The patterns are those of the models' own tokenizer.json files; llama.cpp (src/llama-vocab.cpp)
runs the same rule under the name in the GGUF file.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")


@dataclass(frozen=True)
class PreTokenizer:
    """What tokenizer.json says beside vocabulary and merges; `add_bos` is llama.cpp's default."""

    steps: tuple[Mapping[str, Any], ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """The `pre_tokenizer` entry of tokenizer.json."""
        if len(self.steps) == 1:
            return dict(self.steps[0])
        return {"type": "Sequence", "pretokenizers": [dict(step) for step in self.steps]}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel", **flags}


def _splits(*patterns: str) -> tuple[Mapping[str, Any], ...]:
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    steps = [{**split, "pattern": {"Regex": pattern}} for pattern in patterns]
    return (*steps, _byte_level(use_regex=False))


_SMOLLM = PreTokenizer(
    ({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True))
)
_LLAMA_BPE = PreTokenizer(_splits(_LLAMA3), ignore_merges=True, add_bos=True)

# The first name of equal rules is the one that `pre_name` returns.
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((_byte_level(use_regex=True),)),
    "phi-2": PreTokenizer((_byte_level(use_regex=True),)),
    "smollm": _SMOLLM,
    "starcoder": _SMOLLM,
    "refact": _SMOLLM,
    "llama-bpe": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "smaug-bpe": PreTokenizer(_splits(_LLAMA3)),  # Llama 3's before it ignored merges
    "qwen2": PreTokenizer(_splits(_QWEN2), nfc=True),
    "tekken": PreTokenizer(_splits(_TEKKEN), ignore_merges=True, add_bos=True),
    "default": PreTokenizer(_splits(*_DEFAULT)),
}


def pre_name(tokenizer: Mapping[str, Any]) -> str:
    """The `tokenizer.ggml.pre` of a parsed tokenizer.json by its structure; empty if unknown."""
    found = _steps(tokenizer.get("pre_tokenizer"))
    ignore = bool(tokenizer.get("model", {}).get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if found == _steps(known.json) and ignore == known.ignore_merges:
            return name
    return ""


def normalizers(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Types of the normalizer steps of a parsed tokenizer.json, outermost Sequence removed."""
    found = tokenizer.get("normalizer") or {"type": "Sequence", "normalizers": []}
    steps = found.get("normalizers", []) if found.get("type") == "Sequence" else [found]
    return tuple(str(step.get("type")) for step in steps)


def _steps(entry: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps without what does not change tokens (trim_offsets moves offsets only)."""
    if not entry:
        return []
    steps = entry.get("pretokenizers", []) if entry.get("type") == "Sequence" else [entry]
    return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]
