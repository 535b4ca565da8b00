"""What a row of the table is: a way to make files, and the engine that answers from them."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from held_out import Window

from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32


@dataclass(frozen=True)
class Setup:
    """What every row starts from; `calibration` is the only text that a row may read."""

    model: Model
    calibration: Path
    work: Path  # of this model; environments of peers lie one level above
    threads: int

    def made(self, row: Row) -> Path:
        """The folder that a row's files go to."""
        return self.work / "made" / slug(row.name)


@dataclass(frozen=True)
class Made:
    """What a row made: the files that ship (tokenizer apart), and what to say of it."""

    files: tuple[str, ...]
    engine: str
    note: str = ""
    digest: str = ""  # weights_digest, of ours
    settings: str = ""  # of ours: what its bundles for all targets were built with

    @property
    def megabytes(self) -> float:
        """Size of all files in 10^6 bytes."""
        return sum(Path(file).stat().st_size for file in self.files) / 1e6


class Row(Protocol):
    """One line of the table."""

    @property
    def name(self) -> str:
        """As in the table."""
        ...

    def make(self, setup: Setup) -> Made:
        """Write the files below `setup.made(self)`, an empty folder."""
        ...

    def answer(self, setup: Setup, made: Made, windows: Sequence[Window]) -> Iterator[Float32]:
        """Logits float32 [tokens, vocabulary] of each window in the engine."""
        ...


def slug(name: str) -> str:
    """The name as a file's: letters, digits, dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def remember(made: Made, file: Path) -> Made:
    """Keep what a row made, so that it is not made again."""
    file.write_text(json.dumps(asdict(made), indent=1), "utf-8")
    return made


def remembered(file: Path) -> Made | None:
    """What `remember` kept, if it is still there."""
    if not file.exists():
        return None
    table = json.loads(file.read_text("utf-8"))
    return Made(**{**table, "files": tuple(table["files"])})
