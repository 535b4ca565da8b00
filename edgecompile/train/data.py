"""The user's rows: read, checked, and parted into what training sees and what it does not."""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.errors import BadInputError
from edgecompile.text.files import read_records

Augment = Callable[[str, int], str]  # (a training text, a number of its own) -> another text


@dataclass(frozen=True)
class Keys:
    """Columns, or keys of JSON: the text, the second of a pair (or the answer), and the label."""

    text: str = "text"
    pair: str = ""
    label: str = "label"


@dataclass(frozen=True)
class Example:
    """One row; `where` is its file and line. A label is a name, a list of tags, or a number."""

    where: str
    text: str
    pair: str | None = None
    label: Any = None

    @property
    def key(self) -> str:
        """What makes rows the same: their texts, but for white space and capitals."""
        return "\n".join(" ".join(part.split()).casefold() for part in (self.text, self.pair or ""))


@dataclass(frozen=True)
class Data:
    """Training and held-out rows, which share no text: `dropped` training rows did."""

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]
    how: str  # how the held-out part was made
    dropped: int = 0

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each part: what a report says in place of the texts."""
        return {"training": digest(self.training), "held_out": digest(self.held_out)}


def read(path: Path, keys: Keys, held_out: Path | None, share: float) -> Data:
    """Training rows from `path`; held-out ones from a file, else `share` of them by a hash."""
    rows = read_examples(path, keys)
    if held_out is None:
        kept = [row for row in rows if not is_held_out(row.key, share)]
        apart = [row for row in rows if is_held_out(row.key, share)]
        data = Data(tuple(kept), tuple(apart), f"{share:g} of the rows, by a hash of their text")
    else:
        apart = read_examples(held_out, keys)
        seen = {row.key for row in apart}
        kept = [row for row in rows if row.key not in seen]
        how = "a file of its own"
        data = Data(tuple(kept), tuple(apart), how, dropped=len(rows) - len(kept))
    if not data.training:
        found = f"all {len(rows)} rows are held out"
        raise BadInputError(str(path), found, "rows to learn from", "give more, or another file")
    return data


def is_held_out(key: str, share: float) -> bool:
    """Whether a text is in the held-out share: by its SHA-256, the same on every machine."""
    number = int.from_bytes(hashlib.sha256(f"held out|{key}".encode()).digest()[:8], "big")
    return number < share * 2**64


def read_examples(path: Path, keys: Keys) -> list[Example]:
    """Every row of the file, in its order."""
    rows = [_example(where, record, keys) for where, record in read_records(path, keys.text)]
    if not rows:
        raise BadInputError(str(path), "no rows in it", "at least one")
    return rows


def _example(where: str, record: dict[str, Any], keys: Keys) -> Example:
    text = _text(where, record, keys.text)
    pair = _text(where, record, keys.pair) if keys.pair else None
    label = record.get(keys.label)
    return Example(where, text, pair, None if label == "" else label)


def _text(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if isinstance(value, str) and value.strip():
        return _encodable(where, value)
    shown = "an empty text" if isinstance(value, str) else type(value).__name__
    names = ", ".join(map(repr, list(record)[:8]))
    found = f"{shown} under {key!r}" if key in record else f"no key {key!r} among {names}"
    raise BadInputError(where, found, "a text")


def _encodable(where: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # \ud800 in JSON
        found = f"half a character, {text[error.start]!r}, at position {error.start}"
        raise BadInputError(where, found, "text that is valid Unicode") from error
    return text


def digest(rows: Iterable[Example]) -> str:
    """SHA-256 over texts and labels in their order, each with its length before it."""
    total = hashlib.sha256()
    for row in rows:
        for part in (row.text, row.pair or "", repr(row.label)):
            data = part.encode("utf-8", "surrogatepass")
            total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def class_names(data: Data, what: str = "label") -> tuple[str, ...]:
    """The classes of the training rows, in alphabetical order; at least two.

    BadInputError for a row without one, and for a held-out class that training never sees.
    """
    counts = Counter(name for row in data.training for name in names_of(row))
    for row in data.held_out:
        for name in names_of(row):
            if name not in counts:
                known = ", ".join(sorted(counts)[:20])
                raise BadInputError(
                    row.where, f"the held-out {what} {name!r} is not in the training rows",
                    f"one of {known}", "mend it, or give training rows of it",
                )  # fmt: skip
    if len(counts) < 2:
        where = data.training[0].where
        found = f"every training row has the {what} {next(iter(counts))!r}"
        raise BadInputError(where, found, "at least two classes")
    return tuple(sorted(counts))


def names_of(row: Example) -> list[str]:
    """The row's class, or its tags, as names."""
    label = row.label
    if isinstance(label, bool) or not isinstance(label, str | int | list):
        shown = "no label" if label is None else f"a label of type {type(label).__name__}"
        raise BadInputError(row.where, shown, "a name or a number", "see --set data.label=KEY")
    return [str(one) for one in label] if isinstance(label, list) else [str(label)]
