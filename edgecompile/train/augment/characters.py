"""Mistakes of typing: neighbours swapped, a letter dropped or doubled, the key beside it hit."""
from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from edgecompile.train.augment.pieces import (
    JOINERS,
    Random,
    folded,
    happens,
    is_kept,
    pick,
    refuse_wrong,
    split,
    word_set,
)

KINDS = ("swap", "drop", "double", "key")
# Elsewhere a character is a syllable or a word, or is shaped together with others.
ALPHABETS = word_set("LATIN GREEK CYRILLIC ARMENIAN GEORGIAN HEBREW ARABIC")
VIRAMA = 9  # canonical combining class of what joins the next letter to the last


@dataclass(frozen=True)
class Characters:
    """One mistake in a word with `probability`, after its first letter (which writers rarely miss).

    Words of fewer than `shortest` letters, digits, and scripts that are no alphabets stay.
    """

    probability: float = 0.05  # of each word
    shortest: int = 4
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        refuse_wrong(self, KINDS)

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text with mistakes; one that would make a kept word of another word is not made."""
        pieces = split(text)
        for at in range(1, len(pieces), 2):
            if is_kept(pieces[at], kept) or not happens(rng, self.probability):
                continue
            wrong = self._misspelled(pieces[at], rng)
            if not is_kept(wrong, kept):
                pieces[at] = wrong
        return "".join(pieces)

    def _misspelled(self, word: str, rng: Random) -> str:
        letters = [at for at in range(len(word)) if is_letter(word, at)]
        if len(letters) < max(self.shortest, 2):
            return word
        for index in rng.permutation(len(self.kinds)):
            kind, start = self.kinds[index], int(rng.integers(1, len(letters)))
            for at in letters[start:] + letters[1:start]:
                if (wrong := mistake(word, at, kind, rng)) != word:
                    return wrong
        return word


def mistake(word: str, at: int, kind: str, rng: Random) -> str:
    """The word with a mistake at a letter; the same word where that one cannot be made there."""
    char, before, after = word[at], word[:at], word[at + 1 :]
    if kind == "drop":
        return before + after
    if kind == "double":
        return before + char + char + after
    if kind == "key":
        keys = neighbours().get(char.lower(), "")
        key = keys[pick(rng, len(keys))] if keys else char
        return before + (key.upper() if char.isupper() else key) + after
    follows = at + 1 < len(word) and is_letter(word, at + 1)
    return before + after[0] + char + after[1:] if follows else word


def is_letter(word: str, at: int) -> bool:
    """Whether a character is a letter of an alphabet and by itself a grapheme cluster (UAX 29)."""
    if not word[at].isalpha() or not _of_alphabet(word[at]):
        return False
    after, before = word[at + 1 : at + 2], word[at - 1 : at]
    joined = after and (after in JOINERS or unicodedata.category(after)[0] == "M")
    led = before and (before in JOINERS or unicodedata.combining(before) == VIRAMA)
    return not (joined or led)


@functools.lru_cache(1 << 12)
def _of_alphabet(char: str) -> bool:
    return unicodedata.name(char, "none").split()[0] in ALPHABETS


@functools.cache
def neighbours() -> Mapping[str, str]:
    """Keys beside a letter's on a QWERTY keyboard, in its row and the next ones."""
    rows, found = ("qwertyuiop", "asdfghjkl", "zxcvbnm"), dict[str, set[str]]()
    pairs = [pair for row in rows for pair in pairwise(row)]
    for upper, lower in pairwise(rows):
        pairs += zip(lower, upper, strict=False)  # a key lies below this one
        pairs += zip(lower, upper[1:], strict=False)  # and this
    for one, other in pairs:
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return {folded(key): "".join(sorted(others)) for key, others in found.items()}
