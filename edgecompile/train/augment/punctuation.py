"""Punctuation: the last mark or all marks gone, another end, a mark repeated."""
from __future__ import annotations

from dataclasses import dataclass

from edgecompile.train.augment.pieces import Random, happens, pick, refuse_wrong, split

KINDS = ("end", "none", "commas", "add", "repeat")
# Latin, Arabic and ideographic; a Greek question mark is a semicolon.
MARKS = frozenset(".,;:!?\u2026\u061f\u060c\u061b\u3002\uff0c\u3001\uff01\uff1f\uff1b\uff1a")
COMMAS = frozenset(",\u060c\uff0c\u3001")


@dataclass(frozen=True)
class Punctuation:
    """With `probability`: no `end` mark, `none` at all, no `commas`, `add` one, `repeat` the last.

    Marks inside a word, a number or an address stay, and so does a text without a word.
    """

    probability: float = 0.1  # of a text
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        refuse_wrong(self, KINDS)

    def __call__(self, text: str, rng: Random, _kept: frozenset[str]) -> str:
        """The text with other marks; its words are the same."""
        if not happens(rng, self.probability):
            return text
        pieces = split(text)
        if len(pieces) == 1:
            return text
        kind = self.kinds[pick(rng, len(self.kinds))]
        if kind in ("none", "commas"):
            marks = MARKS if kind == "none" else COMMAS
            pieces[::2] = [_without(gap, marks) for gap in pieces[::2]]
        else:
            pieces[-1] = _ended(pieces[-1], kind, rng)
        return "".join(pieces)


def _without(gap: str, marks: frozenset[str]) -> str:
    """A gap without marks; marks with no space after them join what they stand between (3.5)."""
    inside = gap and not gap[-1].isspace() and not gap[0].isspace()
    return gap if inside and len(gap) == 1 else "".join(c for c in gap if c not in marks)


def _ended(gap: str, kind: str, rng: Random) -> str:
    bare = gap.rstrip()
    marked = bare[-1:] in MARKS and bool(bare)
    if kind == "end":
        return bare.rstrip("".join(MARKS)) if marked else gap
    if kind == "add":
        return gap if marked else bare + ".!?"[pick(rng, 2)]
    return bare + bare[-1] * (1 + pick(rng, 2)) if marked else gap
