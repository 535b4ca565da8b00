"""Texts and pictures for models of both: a folder with captions, or pictures beside prose.

Captions are in metadata.csv or metadata.jsonl, with `file_name` and `text` a row, as Hugging Face's
image folders have them; a picture may have several.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecompile.errors import BadInputError
from edgecompile.text import files
from edgecompile.text.corpus import default_corpus
from edgecompile.text.parts import Corpus, Document, Shot, split
from edgecompile.text.pictures import ENDINGS, default_pictures, digest_of, read_pictures

NAMES = ("metadata.csv", "metadata.jsonl")
TABLES = (".csv", ".jsonl")
FILE, TEXT = "file_name", "text"


def corpus(place: Path | None, column: str = TEXT) -> Corpus:
    """What is in a folder, or in a file of captions beside its pictures; else the default of both.

    A document with a picture has its caption as label; without captions prose follows.
    """
    if place is None:
        return _beside_prose(default_pictures())
    listed = [place] if place.is_file() else [place / name for name in NAMES]
    found = next((file for file in listed if file.is_file()), None)
    return read_captions(found, column) if found else _beside_prose(read_pictures(place))


def read_captions(file: Path, column: str = TEXT) -> Corpus:
    """Pictures of the file's folder with their texts; a picture's texts stay in one part."""
    rows = files.read_documents(file, column, FILE)
    pairs = [_captioned(file, row) for row in rows]
    found = split(file.parent.name, pairs)
    if empty := [part for part, documents in found.parts.items() if not documents]:
        raise BadInputError(
            str(file), f"{len(rows)} captions leave the part {empty[0]} empty",
            "enough for three parts; about 30 pictures always are",
        )  # fmt: skip
    return found


def pictures_of(documents: Sequence[Document]) -> list[Document]:
    """One document for each picture, in order."""
    found = {one.text: one for one in reversed(documents) if one.picture is not None}
    return list(reversed(found.values()))


def texts_of(documents: Sequence[Document]) -> list[str]:
    """Captions where there are any, else the texts of documents without a picture."""
    captions = [one.label for one in documents if one.picture is not None and one.label]
    return captions or [one.text for one in documents if one.picture is None]


def _captioned(file: Path, row: Document) -> tuple[str, Document]:
    picture = (file.parent / (row.label or "")).resolve()
    inside = picture.is_relative_to(file.parent.resolve())
    if not row.label or not inside or picture.suffix.lower() not in ENDINGS:
        raise BadInputError(str(file), f"{FILE} {row.label!r:.200}", "a picture below its folder")
    if not picture.is_file():
        raise BadInputError(str(file), f"no file {row.label[:200]!r}", "pictures beside it")
    digest = digest_of(picture)
    return digest, Document(digest, row.text, Shot(picture))


def _beside_prose(pictures: Corpus) -> Corpus:
    """Pictures, whose labels are no captions, then prose in each part."""
    prose = default_corpus()
    parts = (
        (*(Document(one.text, None, one.picture) for one in pictures.parts[part]), *texts)
        for part, texts in prose.parts.items()
    )
    return Corpus(f"{pictures.name}, {prose.name}", *parts)
