"""SentencePiece BPE vocabularies (`tokenizer.ggml.model` llama): pieces and scores, not merges."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecompile.errors import BadInputError
from edgecompile.sources.gguf_file import AGAIN, GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
LONGEST_PIECE = 512  # characters; the time for a piece's cuts grows with its square
DEFAULT_IDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}  # as in llama.cpp


def parts(file: GgufFile, tokens: Sequence[str]) -> dict[str, Any]:
    """Normalizer, decoder and model of tokenizer.json, as transformers writes Llama 2's."""
    scores = _list(file, "scores", len(tokens), float)
    kinds = _list(file, "token_type", len(tokens), int)
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", bool, True))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    fallback = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    unknown = file.get("tokenizer.ggml.unknown_token_id", int, DEFAULT_IDS["unknown_token_id"])
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, *fallback, *strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown] if unknown < len(tokens) else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges(file, tokens, scores, kinds),
        },
    }


def merges(
    file: GgufFile, tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]
) -> list[list[str]]:
    """Every cut of a piece into two pieces, best score first: what SentencePiece would join."""
    ids = {token: n for n, token in enumerate(tokens) if kinds[n] in (NORMAL, UNUSED)}
    longest = max(map(len, ids), default=0)
    if longest > LONGEST_PIECE:
        found = f"a token of {longest} characters"
        raise BadInputError(str(file.path), found, f"at most {LONGEST_PIECE}", AGAIN)
    found_cuts = [
        (-scores[number], number, ids[token[:cut]], ids[token[cut:]])
        for token, number in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return [[tokens[left], tokens[right]] for _, _, left, right in sorted(found_cuts)]


def _list(file: GgufFile, name: str, count: int, kind: type) -> list[Any]:
    key = f"tokenizer.ggml.{name}"
    values: list[Any] = file.need(key, list)
    if len(values) != count or not all(isinstance(value, kind) for value in values):
        found = f"{key} has {len(values)} entries"
        raise BadInputError(str(file.path), found, f"{count} of type {kind.__name__}", AGAIN)
    return values
