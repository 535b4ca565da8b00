"""Kinds of tokenizer models: what a token is made of, and the same model with fewer tokens.

For each kind, text whose tokens all stay keeps its encoding (docs/decisions/0013-vocabulary.md).
"""
from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edgecompile.errors import UnsupportedError

Pair = tuple[str, str]
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPACE = "▁"  # SentencePiece's: decoders know it by its character, not by its bytes
KINDS = ("BPE", "WordPiece", "Unigram")


@dataclass(frozen=True)
class Kind(ABC):
    """A tokenizer.json's `model`; ids are by token, added tokens aside."""

    table: Mapping[str, Any]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return dict(self.table["vocab"])

    @property
    def unknown(self) -> str | None:
        """The token of what has no other."""
        found: str | None = self.table.get("unk_token")
        return found

    @property
    def has_bytes(self) -> bool:
        """Whether a character without a token is written as its bytes."""
        return bool(self.table.get("byte_fallback")) and all(one in self.ids for one in BYTES)

    @abstractmethod
    def always(self) -> Iterable[str]:
        """Tokens without which some text would have no encoding, or another."""

    @abstractmethod
    def parts(self, token: str) -> Sequence[str]:
        """Further tokens that are on the way to this one."""

    @abstractmethod
    def smaller(self, kept: Sequence[str]) -> dict[str, Any]:
        """The model with those tokens, whose ids are their places."""

    def unmatched(self, word: str) -> Sequence[str]:
        """Tokens because of which a word that has no encoding has none."""
        del word
        return ()


@dataclass(frozen=True)
class WordPiece(Kind):
    """The longest token that fits, again and again."""

    @cached_property
    def _prefix(self) -> str:
        return str(self.table.get("continuing_subword_prefix", "##"))

    def _pieces(self, token: str) -> list[str]:
        """The token's characters, each as a token of its own is written in its place."""
        inside = token.startswith(self._prefix) and token != self._prefix
        text = token[len(self._prefix) :] if inside else token
        return [(self._prefix if index or inside else "") + one for index, one in enumerate(text)]

    def always(self) -> Iterable[str]:
        """Single characters, and tokens with one that has no token of its own in that place."""
        for token in self.ids:
            pieces = self._pieces(token)
            if len(pieces) == 1 or any(piece not in self.ids for piece in pieces):
                yield token

    def parts(self, token: str) -> Sequence[str]:
        """None: a token is matched by itself."""
        del token
        return ()

    def unmatched(self, word: str) -> Sequence[str]:
        """What matches before nothing does: without it a shorter match might go on."""
        if len(word) > int(self.table.get("max_input_chars_per_word", 100)):
            return ()
        found: list[str] = []
        start = 0
        while start < len(word):
            prefix = self._prefix if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.ids), None)
            if end is None:
                return found
            found.append(prefix + word[start:end])
            start = end
        return ()

    def smaller(self, kept: Sequence[str]) -> dict[str, Any]:
        """The same rules on fewer tokens."""
        return {**self.table, "vocab": {token: place for place, token in enumerate(kept)}}


@dataclass(frozen=True)
class Unigram(Kind):
    """The sequence of tokens with the highest sum of scores."""

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id, which is its place."""
        return {token: place for place, (token, _) in enumerate(self.table["vocab"])}

    @property
    def unknown(self) -> str | None:
        """The token at `unk_id`."""
        place = self.table.get("unk_id")
        return None if place is None else str(self.table["vocab"][place][0])

    def always(self) -> Iterable[str]:
        """Characters or bytes, and the lowest score, which says what an unknown one counts."""
        scores: Mapping[str, float] = dict(self.table["vocab"])
        yield min(scores, key=lambda token: (scores[token], self.ids[token]))
        if self.has_bytes:
            yield from (one for one in (*BYTES, SPACE) if one in self.ids)
            return
        for token in self.ids:
            if len(token) == 1 or any(one not in self.ids for one in token):
                yield token

    def parts(self, token: str) -> Sequence[str]:
        """None: a token is found by itself."""
        del token
        return ()

    def smaller(self, kept: Sequence[str]) -> dict[str, Any]:
        """The same scores on fewer tokens."""
        scores, unknown = dict(self.table["vocab"]), self.unknown
        place = None if unknown is None else list(kept).index(unknown)
        return {**self.table, "vocab": [[t, scores[t]] for t in kept], "unk_id": place}


@dataclass(frozen=True)
class Bpe(Kind):
    """Neighbours are merged, the pair that was learned first before all others."""

    _made: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    @cached_property
    def merges(self) -> list[Pair]:
        """Pairs in the order in which they are merged."""
        listed = self.table["merges"]
        pairs = (one.split(" ") if isinstance(one, str) else one for one in listed)
        return [(str(left), str(right)) for left, right in pairs]

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _suffix(self) -> str:
        return str(self.table.get("end_of_word_suffix") or "")

    def _symbols(self, token: str) -> list[str]:
        """Characters, the last with what ends a word."""
        if not self._suffix or not token.endswith(self._suffix) or token == self._suffix:
            return list(token)
        text = token.removesuffix(self._suffix)
        return [*text[:-1], text[-1] + self._suffix]

    def always(self) -> Iterable[str]:
        """What merging begins with: all single characters (all bytes of a byte-level BPE).

        Where bytes stand in for characters, the bytes.
        """
        if self.has_bytes:
            yield from (one for one in (*BYTES, SPACE) if one in self.ids)
            return
        yield from (token for token in self.ids if len(self._symbols(token)) == 1)

    def parts(self, token: str) -> Sequence[str]:
        """All that is merged on the way; nothing for a token that merging does not reach.

        Merges inside a token come in the same order whatever is beside it, so a token has one way.
        """
        if token not in self._made:
            self._made[token] = self._way(token)
        return self._made[token]

    def _way(self, token: str) -> tuple[str, ...]:
        symbols = self._symbols(token)
        found = dict.fromkeys(symbols)
        while len(symbols) > 1:
            ranked = [
                (self._ranks[pair], at) for at, pair in enumerate(itertools.pairwise(symbols))
                if pair in self._ranks
            ]
            if not ranked:
                return ()
            at = min(ranked)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found[symbols[at]] = None
        return tuple(one for one in found if one in self.ids)

    def smaller(self, kept: Sequence[str]) -> dict[str, Any]:
        """The merges whose parts and result are kept, in their order."""
        vocab = {token: place for place, token in enumerate(kept)}
        merges = [[a, b] for a, b in self.merges if a in vocab and b in vocab and a + b in vocab]
        return {**self.table, "vocab": vocab, "merges": merges}


def kind_of(document: Mapping[str, Any], where: str) -> Kind:
    """The kind of a tokenizer.json; UnsupportedError for one that is not described here."""
    table = document.get("model") or {}
    name = table.get("type") or ("BPE" if "merges" in table else "WordPiece")
    if name not in KINDS:
        raise UnsupportedError(where, f"a tokenizer model {name!r}", f"one of {', '.join(KINDS)}")
    if name == "BPE" and (table.get("continuing_subword_prefix") or table.get("dropout")):
        raise UnsupportedError(where, "a BPE with a subword prefix or dropout", "one without")
    if name == "BPE":
        return Bpe(table)
    return WordPiece(table) if name == "WordPiece" else Unigram(table)
