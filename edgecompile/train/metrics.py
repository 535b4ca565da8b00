"""metrics.jsonl: a line a step, which survives a kill and is cut back at a resume."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def read_rows(file: Path, last: int) -> list[dict[str, Any]]:
    """The rows of steps up to `last`; a half-written line ends them."""
    rows: list[dict[str, Any]] = []
    if not file.is_file():
        return rows
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] > last:
            break
        rows.append(row)
    return rows


def flush(file: Path) -> None:
    """Have the file's bytes on the disk."""
    if file.is_file():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def replace_text(file: Path, text: str) -> None:
    """Give the file other contents in one step: the old or the new are there, never half."""
    new = file.with_name(f".{file.name}.new")
    with new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
