"""Case: all small, all capitals, each word's first letter, or none but the first."""
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

KINDS = ("lower", "upper", "title", "first")


@dataclass(frozen=True)
class Case:
    """With `probability` the text's case changes to one of `kinds`.

    Kept words stay: US and us, Polish and polish are different words.
    """

    probability: float = 0.1  # of a text
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        refuse_wrong(self, KINDS)

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text in another case."""
        if not happens(rng, self.probability):
            return text
        kind, pieces = self.kinds[pick(rng, len(self.kinds))], split(text)
        for at in range(1, len(pieces), 2):
            if not is_kept(pieces[at], kept):
                pieces[at] = _cased(pieces[at], kind, first=at == 1)
        return "".join(pieces)


def _cased(word: str, kind: str, first: bool) -> str:
    if kind == "first":
        changed = word[0].upper() + word[1:] if first else word
    elif kind == "title":
        changed = word[0].upper() + word[1:].lower()
    else:
        changed = word.upper() if kind == "upper" else word.lower()
    # Where a letter becomes two (\u00df, SS) there is no way back: the word stays.
    return changed if len(changed) == len(word) else word
