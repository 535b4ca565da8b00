"""A text as words and what stands between them; words that have to stay; chances."""
from __future__ import annotations

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from edgecompile.config import nearest
from edgecompile.errors import UsageError

Random = np.random.Generator
APOSTROPHES = "'\u2019"
JOINERS = "\u200c\u200d"  # inside a word, and inside an emoji


def split(text: str) -> list[str]:
    """Pieces whose odd ones are words, the even ones what is between: joined, they are the text.

    A word is a run of letters, digits and their marks, with apostrophes inside it ("don't").
    """
    pieces = [""]
    for part in _joined(_runs(text)):
        if (len(pieces) % 2 == 1) == any(map(str.isalnum, part)):
            pieces.append(part)
        else:
            pieces[-1] += part
    return pieces if len(pieces) % 2 else [*pieces, ""]


def _runs(text: str) -> list[str]:
    return ["".join(run) for _, run in itertools.groupby(text, _in_word)]


@functools.lru_cache(1 << 14)
def _in_word(char: str) -> bool:
    return char.isalnum() or char in JOINERS or unicodedata.category(char)[0] == "M"


def _joined(runs: list[str]) -> Iterable[str]:
    """Runs, with those around a single apostrophe made one."""
    at = 0
    while at < len(runs):
        whole, at = runs[at], at + 1
        while at + 1 < len(runs) and runs[at] in APOSTROPHES and _wordy(whole, runs[at + 1]):
            whole, at = whole + runs[at] + runs[at + 1], at + 2
        yield whole


def _wordy(*parts: str) -> bool:
    return all(any(map(str.isalnum, part)) for part in parts)


def words(text: str) -> list[str]:
    """The words of a text, as they are spelled."""
    return split(text)[1::2]


def word_set(text: str) -> frozenset[str]:
    """The words of a table that is written as a text."""
    return frozenset(text.split())


def folded(word: str) -> str:
    """What `kept` holds of a word: its case and its way of composing accents do not count."""
    return unicodedata.normalize("NFC", word.casefold())


def is_kept(word: str, kept: frozenset[str]) -> bool:
    """Whether a word has to stay as it is."""
    return folded(word) in kept


def keeps_all(before: str, after: str, kept: frozenset[str]) -> bool:
    """Whether each kept word of `before` is in `after` as often and spelled alike, and no other."""
    there, now = (
        Counter(word for word in words(text) if is_kept(word, kept)) for text in (before, after)
    )
    return there <= now and {folded(word) for word in there} == {folded(word) for word in now}


def happens(rng: Random, probability: float) -> bool:
    """True with that probability: 0 is never, 1 is always."""
    return bool(rng.random() < probability)


def pick(rng: Random, count: int) -> int:
    """A number below `count`, all equally likely."""
    return int(rng.integers(count))


def refuse_wrong(options: Any, kinds: Iterable[str] = ()) -> None:
    """Refuse a probability or share outside [0, 1], and names that are not among `kinds`."""
    where, known = f"[augment.{type(options).__name__.lower()}]", tuple(kinds)
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in ("probability", "share") and not 0 <= value <= 1:
            raise UsageError(where, f"{field.name} = {value}", "a number from 0 to 1")
        if field.name == "kinds" and not value:
            raise UsageError(where, "no kinds", f"some of {', '.join(known)}")
        for name in value if field.name == "kinds" else ():
            if name not in known:
                raise UsageError(where, f"kind {name!r}", nearest(name, known))
