"""Words and short phrases in place of others that mean the same."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgecompile.errors import BadInputError
from edgecompile.train.augment.pieces import (
    Random,
    folded,
    happens,
    keeps_all,
    pick,
    refuse_wrong,
    split,
)
from edgecompile.train.augment.synonym_table import TABLE

MAX_FILE_BYTES = 16 << 20
Phrases = Mapping[tuple[str, ...], tuple[str, ...]]  # folded words -> alternatives


@dataclass(frozen=True)
class Synonyms:
    """Each word or phrase that the table has is replaced with `probability`.

    `file` is a table of your own, before ours: a phrase and its alternatives a line, tabs between.
    """

    probability: float = 0.1  # of each word or phrase
    file: str = ""
    table: bool = True  # ours (synonym_table.py)

    def __post_init__(self) -> None:
        refuse_wrong(self)

    @cached_property
    def phrases(self) -> Phrases:
        """Alternatives by phrase; the user's take the place of ours."""
        ours = read_lines(TABLE, "synonym_table.py") if self.table else {}
        return {**ours, **(read_file(Path(self.file)) if self.file else {})}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.phrases), default=0)

    def __call__(self, text: str, rng: Random, kept: frozenset[str]) -> str:
        """The text with other words; none that drops or brings a kept word is taken."""
        pieces, done, at = split(text), list[str](), 1
        while at < len(pieces):
            done.append(pieces[at - 1])
            length = self._match(pieces, at)
            stop = at + 2 * max(length, 1) - 1
            found = "".join(pieces[at:stop])
            if length and happens(rng, self.probability):
                found = self._other(found, done, rng, kept)
            done.append(found)
            at = stop + 1
        return "".join([*done, pieces[-1]])

    def _match(self, pieces: list[str], at: int) -> int:
        """Words of the longest phrase that starts here, single spaces between; 0 for none."""
        for length in range(min(self._longest, (len(pieces) - at) // 2), 0, -1):
            part = pieces[at : at + 2 * length - 1]
            spaced = all(gap == " " for gap in part[1::2])
            if spaced and tuple(map(folded, part[::2])) in self.phrases:
                return length
        return 0

    def _other(self, found: str, done: list[str], rng: Random, kept: frozenset[str]) -> str:
        options = self.phrases[tuple(map(folded, split(found)[1::2]))]
        before = folded(done[-2]) if len(done) > 1 else ""
        if before in ("a", "an"):  # a large house, not: a enormous house
            options = tuple(one for one in options if _vowel(one) == _vowel(found))
        options = tuple(one for one in options if keeps_all(found, _like(one, found), kept))
        return _like(options[pick(rng, len(options))], found) if options else found


def _vowel(word: str) -> bool:
    return word[:1].lower() in "aeiou"


def _like(word: str, found: str) -> str:
    """The word in the case of the one it replaces: all capitals, a first one, or as it is."""
    if len(found) > 1 and found.isupper():
        return word.upper()
    return word[0].upper() + word[1:] if found[0].isupper() else word


def read_file(path: Path) -> Phrases:
    """A user's table, UTF-8."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadInputError(str(path), f"{size} bytes", f"at most {MAX_FILE_BYTES}")
        return read_lines(path.read_text("utf-8-sig"), str(path))
    except OSError as error:
        raise BadInputError(str(path), f"cannot be read: {error.strerror}", "a table") from error
    except UnicodeDecodeError as error:
        raise BadInputError(str(path), f"not UTF-8: {error}", "a table in UTF-8") from error


def read_lines(text: str, where: str) -> Phrases:
    """Alternatives by phrase of a table with tabs; empty lines and those with # say nothing."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        phrase, *others = (cell.strip() for cell in line.split("\t"))
        key = tuple(map(folded, split(phrase)[1::2]))
        if not key or not others or not all(split(other)[1::2] for other in others):
            expected = "a phrase and one or more alternatives, with tabs between"
            raise BadInputError(f"{where}:{number}", repr(line[:80]), expected)
        found[key] = (*found.get(key, ()), *others)
    return found
