"""edgecompile.lock: what builds decided by measuring, kept for builds that only read it."""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.errors import UsageError

NAME = "edgecompile.lock"
FORMAT = 1


@dataclass(frozen=True)
class Choice:
    """The backend that was the fastest to pass for a bundle, and where that was measured."""

    backend: str
    cpu: str
    threads: int
    milliseconds: Mapping[str, float]  # by backend: what `choose.SCORES` counts


def read(file: Path) -> dict[str, Choice]:
    """Choices by bundle name (`<model>-<target>[-<variant>]`); UsageError for a broken file."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            raise UsageError(str(file), f"format {table['format']!r}", str(FORMAT))
        return {name: Choice(**entry) for name, entry in table["choices"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            str(file), f"cannot be read as a lock file: {error!r}", way_out="make it with --relock"
        ) from error


def write(file: Path, name: str, choice: Choice) -> None:
    """Set one choice and keep the others; the file is replaced as a whole."""
    choices = read(file) if file.exists() else {}
    choices[name] = choice
    table: dict[str, Any] = {
        "format": FORMAT, "choices": {key: vars(one) for key, one in sorted(choices.items())}
    }  # fmt: skip
    text = json.dumps(table, indent=2, sort_keys=True) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(draft).replace(file)
