"""Noise of words: one dropped, said twice, swapped with the next, or a filler put before it."""
from __future__ import annotations

from dataclasses import dataclass

from edgecompile.train.augment.pieces import (
    Random,
    happens,
    is_kept,
    keeps_all,
    pick,
    refuse_wrong,
    split,
)

KINDS = ("drop", "repeat", "swap", "filler")
FILLERS = ("um", "uh", "er", "well", "like", "you know")


@dataclass(frozen=True)
class Words:
    """Something happens to a word with `probability` (Wei and Zou 2019, EDA, without insertion).

    A kept word is neither dropped nor moved; half of the words stay at least.
    """

    probability: float = 0.05  # of each word
    kinds: tuple[str, ...] = KINDS
    fillers: tuple[str, ...] = FILLERS

    def __post_init__(self) -> None:
        refuse_wrong(self, KINDS)

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text with noise; unchanged where a filler would bring a kept word."""
        pieces, least = split(text), len(split(text)) // 4
        at = 1
        while at < len(pieces):
            step = 2
            if happens(rng, self.probability) and not is_kept(pieces[at], kept):
                step = self._changed(pieces, at, rng, (kept, least))
            at += step
        found = "".join(pieces)
        return found if keeps_all(text, found, kept) else text

    def _changed(
        self, pieces: list[str], at: int, rng: Random, bounds: tuple[frozenset[str], int]
    ) -> int:
        """Change `pieces` in place; how far the next word to look at is."""
        kept, least = bounds
        kind = self.kinds[pick(rng, len(self.kinds))]
        free = at + 2 < len(pieces) and not is_kept(pieces[at + 2], kept)
        if kind == "drop" and len(pieces) // 2 > max(least, 1) and loose(pieces, at, at + 1):
            drop(pieces, at, at + 1)
            return 0
        if kind == "swap" and free and pieces[at + 1].isspace():
            pieces[at], pieces[at + 2] = pieces[at + 2], pieces[at]
            return 4
        if kind == "repeat":
            pieces[at] = f"{pieces[at]} {pieces[at]}"
        if kind == "filler" and self.fillers:
            pieces[at] = f"{self.fillers[pick(rng, len(self.fillers))]} {pieces[at]}"
        return 2


def loose(pieces: list[str], start: int, stop: int) -> bool:
    """Whether spaces part words start to stop - 1 from the others: not so in 3.5 or e-mail."""
    before, after = pieces[start - 1], pieces[stop]
    first, last = start == 1, stop == len(pieces) - 1
    return (first or any(map(str.isspace, before))) and (last or any(map(str.isspace, after)))


def drop(pieces: list[str], start: int, stop: int) -> None:
    """Take pieces start to stop - 1 (first and last are words) out, with one space beside them."""
    before, after = pieces[start - 1], pieces[stop]
    if start > 1 and after and not after[0].isspace():
        before = before.rstrip()  # no space before a comma
    elif start == 1 or before[-1:].isspace():
        after = after.lstrip()
    pieces[start - 1 : stop + 1] = [before + after]
