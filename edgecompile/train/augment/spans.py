"""Deletion of a run of words."""
from __future__ import annotations

from dataclasses import dataclass

from edgecompile.train.augment.pieces import (
    Random,
    happens,
    is_kept,
    pick,
    refuse_wrong,
    split,
)
from edgecompile.train.augment.words import drop, loose


@dataclass(frozen=True)
class Spans:
    """With `probability` a run of up to `longest` words goes, at most `share` of the text's.

    Kept words bound a run; one word stays at least.
    """

    probability: float = 0.1  # of a text
    longest: int = 3  # words
    share: float = 0.25

    def __post_init__(self) -> None:
        refuse_wrong(self)

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text without one run of words."""
        pieces = split(text)
        count = len(pieces) // 2
        longest = min(self.longest, int(count * self.share), count - 1)
        free = [at for at in range(1, len(pieces), 2) if not is_kept(pieces[at], kept)]
        if longest < 1 or not free or not happens(rng, self.probability):
            return text
        start, length = free[pick(rng, len(free))], 1 + pick(rng, longest)
        stop = start + 1
        while stop - start < 2 * length - 1 and stop + 1 in free:
            stop += 2
        if loose(pieces, start, stop):
            drop(pieces, start, stop)
        return "".join(pieces)
