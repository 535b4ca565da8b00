"""A corpus in three parts that cannot overlap, each with a digest."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SHARES = (("calibration", 50), ("tuning", 15), ("held_out", 35))  # percent of the hash's range


@dataclass(frozen=True)
class Shot:
    """A picture in a file; `crop` is the number of a seeded part of it, 0 the whole."""

    file: Path
    crop: int = 0


@dataclass(frozen=True)
class Recording:
    """Sound in a WAV file; without one, the seeded sound of that number (text.sounds)."""

    file: Path | None
    number: int = 0


@dataclass(frozen=True)
class Document:
    """One text, and its class name where the data is labelled.

    Of a picture, `text` is the SHA-256 of its file and the crop's number: what digests are of; of a
    sound that of its file, and `label` is what is said in it.
    """

    text: str
    label: str | None = None
    picture: Shot | None = None
    recording: Recording | None = None


@dataclass(frozen=True)
class Corpus:
    """Text for one build: passes read `calibration` and `tuning`, only check reads `held_out`."""

    name: str  # "docstrings", or the data file's name without its folder
    calibration: tuple[Document, ...]
    tuning: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @property
    def parts(self) -> Mapping[str, tuple[Document, ...]]:
        """Documents by part."""
        return {name: getattr(self, name) for name, _ in SHARES}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each part, by part: what manifests and reports record instead of text."""
        return {name: digest(documents) for name, documents in self.parts.items()}

    @property
    def labelled(self) -> bool:
        """Whether every held-out document has a label."""
        return bool(self.held_out) and all(d.label is not None for d in self.held_out)


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 over texts and labels in their order, each with its length before it."""
    total = hashlib.sha256()
    for document in documents:
        for field in (document.text, document.label or ""):
            data = field.encode("utf-8", "surrogatepass")
            total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def part_of(key: str) -> str:
    """The part that `key` belongs to, by its SHA-256: the same on every machine, for ever."""
    percent = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4])
    percent = percent * 100 >> 32
    for name, share in SHARES:
        if percent < share:
            return name
        percent -= share
    raise AssertionError(f"shares {SHARES} do not add up to 100")


def split(name: str, keyed: Iterable[tuple[str, Document]]) -> Corpus:
    """A corpus of (key, document) pairs; documents of one key stay in one part, order is kept."""
    parts: dict[str, list[Document]] = {part: [] for part, _ in SHARES}
    for key, document in keyed:
        parts[part_of(key)].append(document)
    return Corpus(name, *(tuple(parts[part]) for part, _ in SHARES))
