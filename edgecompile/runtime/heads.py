"""What encoders with a head answer: labels of tokens, words behind masks, scores of pairs."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .batching import Rows, activate, encode_all, encode_tokens
from .engine import Engine, Float32
from .errors import BadInputError, UsageError
from .manifest import Manifest
from .tokens import Encoded, Pair, Tokens

PER_TOKEN = ("token-classification", "fill-mask")


def raw_rows(
    engine: Engine, info: Manifest, ids: Rows, types: Rows | None = None,
    at: Rows | None = None,
) -> list[Float32]:  # fmt: skip
    """The graph's own scores of each token list: [width], or [tokens, width] of tokens.

    `at` are the tokens of each list that are wanted, None: all.
    """
    if info.task not in PER_TOKEN:
        return list(encode_all(engine, ids, _width(info), types))
    found: dict[int, Float32] = {}
    for row, values in encode_tokens(engine, ids, _width(info)):
        found[row] = values.copy() if at is None else values[list(at[row])]
    return [found[row] for row in range(len(ids))]


def _width(info: Manifest) -> int:
    """Scores of a text or token: one a label, or one a word of the vocabulary."""
    if info.task != "fill-mask":
        return len(info.labels)
    width = info.data["outputs"][0]["shape"][-1]
    if type(width) is not int or width < 1:
        raise BadInputError("manifest: outputs", repr(width), "the size of the vocabulary")
    return width


def token_labels(
    engine: Engine, info: Manifest, texts: Sequence[str], encoded: Sequence[Encoded]
) -> list[list[dict[str, Any]]]:
    """For each text its tokens but the special ones: word, start, end, label and probability."""
    rows = raw_rows(engine, info, [one.ids for one in encoded])
    return [_labelled(info, *one) for one in zip(texts, encoded, rows, strict=True)]


def _labelled(info: Manifest, text: str, encoded: Encoded, scores: Float32) -> list[dict[str, Any]]:
    probabilities = activate(scores, "softmax")
    return [
        {
            "word": text[start:end], "start": start, "end": end,
            "label": info.labels[int(row.argmax())], "score": float(row.max()),
        }
        for (start, end), special, row in zip(
            encoded.offsets, encoded.special, probabilities, strict=True
        )
        if not special
    ]  # fmt: skip


def fillings(
    engine: Engine, info: Manifest, tokens: Tokens, texts: Sequence[str], top_k: int
) -> list[list[list[dict[str, Any]]]]:
    """For each text and each of its masks the `top_k` likeliest tokens, the likeliest first."""
    if top_k < 1:
        raise UsageError("top_k", repr(top_k), "1 or more")
    mask, ids = mask_id(info, tokens), tokens.encode(texts)
    at = [[i for i, token in enumerate(row) if token == mask] for row in ids]
    for text, places in zip(texts, at, strict=True):
        if not places:
            raise UsageError("fill", f"{text!r:.100}", f"a text with {mask_token(info)}")
    rows = raw_rows(engine, info, ids, at=at)
    return [[_likeliest(tokens, scores, top_k) for scores in masks] for masks in rows]


def _likeliest(tokens: Tokens, scores: Float32, top_k: int) -> list[dict[str, Any]]:
    probabilities = activate(scores[None], "softmax")[0]
    order = np.lexsort((np.arange(len(scores)), -scores))[:top_k]
    return [
        {"token": tokens.decode([token]), "id": token, "score": float(probabilities[token])}
        for token in map(int, order)
    ]


def mask_token(info: Manifest) -> str:
    """What stands for a word to be filled in."""
    if info.tokenizer is None or not info.tokenizer.mask_token:
        raise BadInputError("manifest", "no mask token", "tokenizer: mask_token for fill-mask")
    return info.tokenizer.mask_token


def mask_id(info: Manifest, tokens: Tokens) -> int:
    """Its id; BadInputError where the tokenizer does not know it."""
    found = tokens.id_of(mask_token(info))
    if found is None:
        raise BadInputError("tokenizer", f"no token {mask_token(info)!r}", "the manifest's mask")
    return found


def scores(engine: Engine, info: Manifest, encoded: Sequence[Encoded]) -> Float32:
    """A number a pair, float32 [n], through what the manifest names (`sigmoid`, `identity`)."""
    rows = raw_rows(engine, info, [e.ids for e in encoded], [e.types for e in encoded])
    table = np.array(rows, np.float32).reshape(len(rows), len(info.labels))
    return activate(table, str(info.engine.options.get("activation", "sigmoid")))[:, :1].ravel()


def check_pairs(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Refuse what is not a list of two texts each."""
    wrong = isinstance(pairs, str) or any(not is_pair(pair) for pair in pairs)
    if wrong:
        raise UsageError("pairs", f"{pairs!r:.100}", "a list of (text, text)")
    return [(first, second) for first, second in pairs]


def is_pair(value: object) -> bool:
    """Whether it is two texts."""
    two = isinstance(value, tuple | list) and len(value) == 2
    return two and all(isinstance(text, str) for text in value)  # type: ignore[attr-defined]
