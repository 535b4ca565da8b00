"""Read the user's text: JSON lines, CSV, Parquet or paragraphs; refuse what is broken, by line."""
from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgecompile.errors import BadInputError, MissingLibraryError, UsageError
from edgecompile.text.parts import Document

MAX_LINE_BYTES = 4 << 20
MAX_FILE_BYTES = 2 << 30
Record = dict[str, Any]


def read_documents(path: Path, column: str = "text", label: str = "label") -> list[Document]:
    """Every document of the file, in its order; the ending says the format."""
    rows = read_records(path, column)
    documents = [_document(where, column, label, record) for where, record in rows]
    if not documents:
        raise BadInputError(str(path), "no text in it", "at least one document")
    return documents


def read_records(path: Path, column: str) -> Iterator[tuple[str, Record]]:
    """Each row of the file as (file and line, values by key); every row has the key `column`."""
    readers: dict[str, Callable[[Path, str], Iterator[tuple[str, Record]]]] = {
        ".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".parquet": _parquet,
        ".txt": _paragraphs, ".text": _paragraphs, ".md": _paragraphs,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise UsageError(str(path), f"the ending {path.suffix!r}", ", ".join(readers))
    if not path.is_file():
        raise UsageError(str(path), "no such file", "a JSONL, CSV, Parquet or text file")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise BadInputError(str(path), f"{size} bytes", f"at most {MAX_FILE_BYTES}")
    return readers[path.suffix.lower()](path, column)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its ending), decoded strictly as UTF-8."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(data) > MAX_LINE_BYTES:
                raise BadInputError(where, f"a line of more than {MAX_LINE_BYTES} bytes")
            if number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise BadInputError(where, "a UTF-16 mark", "UTF-8", "save the file as UTF-8")
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadInputError(
                    where,
                    f"byte 0x{data[error.start]:02x} at position {error.start} is not UTF-8",
                    "UTF-8",
                    f"convert it: iconv -f latin1 -t utf-8 {path.name}",
                ) from error
            if "\0" in line:
                raise BadInputError(where, "a NUL character", "text in UTF-8")
            yield number, line


def _document(where: str, column: str, label_column: str, record: Record) -> Document:
    text, label = record.get(column), record.get(label_column)
    if not isinstance(text, str) or not text.strip():
        shown = "nothing" if text is None else type(text).__name__ if text else "an empty text"
        raise BadInputError(where, f"{shown} under {column!r}", "a text")
    if isinstance(label, list):
        label = _tags(where, label, text)
    if not isinstance(label, str | int | None):
        raise BadInputError(where, f"a label of type {type(label).__name__}", "a name or a number")
    return Document(text, None if label is None or label == "" else str(label))


def _tags(where: str, tags: list[Any], text: str) -> str:
    """A tag a white-space word of the text, in one string with spaces between."""
    plain = [tag for tag in tags if isinstance(tag, str | int) and len(str(tag).split()) == 1]
    words = len(text.split())
    if len(plain) != len(tags) or len(tags) != words:
        found = f"{len(tags)} tags {str(tags)[:80]} for {words} words"
        raise BadInputError(where, found, "a name or a number without spaces a white-space word")
    return " ".join(map(str, tags))


def _json_lines(path: Path, column: str) -> Iterator[tuple[str, Record]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInputError(where, f"not JSON: {error}", "one JSON object a line") from error
        if not isinstance(record, dict):
            raise BadInputError(where, f"a {type(record).__name__}", "one JSON object a line")
        if column not in record:
            found = ", ".join(map(repr, list(record)[:8])) or "none"
            raise BadInputError(where, f"no key {column!r} among {found}", "the text's key")
        yield where, record


def _csv(path: Path, column: str) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader((line for _, line in _lines(path)), strict=True)
    try:
        header = next(rows, [])
        if column not in header:
            raise BadInputError(
                f"{path}:1", f"columns {', '.join(header)[:200] or 'none'}", f"one named {column!r}"
            )
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if row and len(row) != len(header):
                raise BadInputError(where, f"{len(row)} fields", f"{len(header)} as in the header")
            if row:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise BadInputError(f"{path}:{rows.line_num}", f"not CSV: {error}") from error


def _parquet(path: Path, column: str) -> Iterator[tuple[str, Record]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        way_out = "pip install 'edgecompile[train]'"
        raise MissingLibraryError(str(path), "pyarrow is not installed", way_out=way_out) from error
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                found = f"columns {', '.join(file.schema_arrow.names)[:200] or 'none'}"
                raise BadInputError(str(path), found, f"one named {column!r}")
            number = 0
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except (ArrowException, OSError) as error:
        raise BadInputError(str(path), f"not Parquet: {error}") from error


def _paragraphs(path: Path, column: str) -> Iterator[tuple[str, Record]]:
    block: list[str] = []
    start = 1
    for number, line in _lines(path):
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            yield f"{path}:{start}", {column: re.sub(r"\s*\n", "\n", "".join(block)).strip()}
            block = []
    if block:
        yield f"{path}:{start}", {column: "".join(block).strip()}
