"""GGUF's `llama` tokenizer from a tokenizer.json that a SentencePiece BPE model was turned into."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgecompile.backends.gguf_layout import Value
from edgecompile.sources.gguf_spm import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED

_KEY = "tokenizer.ggml."
_TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
# Gemma's: after the normalizer no text has a space left to be split at
_NO_SPLIT = {
    "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
}  # fmt: skip


def is_spm(document: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json falls back to bytes, as SentencePiece's BPE does."""
    model = document.get("model", {})
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def refusal(document: Mapping[str, Any]) -> str:
    """Why llama.cpp's rule (join by best score) would give other tokens; empty if it does not."""
    vocabulary = document["model"]["vocab"]
    if space_prefix(document) is None:
        return "its normalizer and pre-tokenizer are not SentencePiece's spaces as U+2581"
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if missing:
        return f"{len(missing)} byte tokens are missing, such as {missing[0]}"
    pairs = {pair(merge) for merge in document["model"]["merges"]}
    made = {left + right for left, right in pairs}
    for token in made:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary and (left, right) not in pairs:
                return f"it never joins {left!r} and {right!r}, but llama.cpp would"
    return ""


def space_prefix(document: Mapping[str, Any]) -> bool | None:
    """Whether a space is put before a text; None if the rules are not SentencePiece's."""
    normalizer, pre = document.get("normalizer"), document.get("pre_tokenizer")
    if normalizer is None and pre and pre.get("type") == "Metaspace":
        plain = pre.get("replacement") == SPACE and not pre.get("split", True)
        return pre.get("prepend_scheme", "always") != "never" if plain else None
    steps = (normalizer or {}).get("normalizers", [normalizer])
    if pre not in (None, _NO_SPLIT) or steps not in ([_TO_SPACE], [_PREPEND, _TO_SPACE]):
        return None
    return len(steps) == 2


def metadata(
    document: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> dict[str, Value]:
    """Tokens, types and scores: minus the rank of the first merge that makes the token."""
    ranks: dict[str, int] = {}
    for merge in document["model"]["merges"]:
        ranks.setdefault("".join(pair(merge)), len(ranks))
    unknown = document["model"].get("unk_token")
    kinds = [_kind(token, kind, unknown) for token, kind in zip(tokens, types, strict=True)]
    scores = [
        -float(ranks.get(token, len(ranks))) if kind in (NORMAL, UNUSED) else 0.0
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return {
        _KEY + "model": "llama",
        _KEY + "pre": "default",
        _KEY + "tokens": list(tokens),
        _KEY + "scores": scores,
        _KEY + "token_type": kinds,
        _KEY + "add_space_prefix": bool(space_prefix(document)),
    }


def pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge in either spelling of tokenizer.json."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _kind(token: str, kind: int, unknown: str | None) -> int:
    if token == unknown:
        return UNKNOWN
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return BYTE if is_byte and kind not in (CONTROL, UNUSED) else kind
