"""What a row of the comparison is: a way to make files, and the engine that opens them."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

NICE = 5


@dataclass(frozen=True)
class Setup:
    """What every row of one model starts from; `calibration` is the only text that it may read."""

    model: Path  # a Hugging Face folder
    task: str  # embedding or text-generation
    calibration: Path
    work: Path  # of this model
    threads: int

    @property
    def venvs(self) -> Path:
        """Environments that all models share."""
        return self.work.parent / "venvs"

    def made(self, row: Row) -> Path:
        """The folder that a row's files go to."""
        return self.work / "made" / slug(row.name)


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of processors: those say more where others work as well."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Made:
    """What a row made: `files` ship (tokenizer apart), `opened` is what the engine is given."""

    opened: str
    files: tuple[str, ...]
    took: Took  # the commands that made them, imports included
    note: str = ""
    python: str = ""  # of the environment that runs it; empty is this one
    stages: dict[str, float] = field(default_factory=dict)  # of ours: seconds by stage
    reused: tuple[str, ...] = ()  # of ours: stages that another row's build had left
    digest: str = ""  # of ours: weights_digest

    @property
    def megabytes(self) -> float:
        """Size of all files in 10^6 bytes."""
        return sum(Path(file).stat().st_size for file in self.files) / 1e6


class Row(Protocol):
    """One line of the table."""

    @property
    def name(self) -> str:
        """Of its folder: who made it, target, engine and precision."""
        ...

    @property
    def task(self) -> str:
        """Of the models that it is for."""
        ...

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Tool, target, engine and precision, as in the table."""
        ...

    @property
    def adapter(self) -> str:
        """The class in decoders.ENGINES or encoders.ENGINES that opens it."""
        ...

    @property
    def library(self) -> str:
        """The engine to import before its clock starts (worker.LIBRARIES)."""
        ...

    def make(self, setup: Setup) -> Made:
        """Write the files below `setup.made(self)`, an empty folder."""
        ...


def slug(name: str) -> str:
    """The name as a file's: letters, digits, dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def timed(command: Sequence[str | Path], log: Path, threads: int) -> Took:
    """What a command took; its words go to `log`, the last ones into an error."""
    with log.open("ab") as words:
        took, code = run(command, threads, stdout=words, stderr=words)
    if code:
        said = log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {code}: {said}")
    return took


def run(command: Sequence[str | Path], threads: int, **popen: Any) -> tuple[Took, int]:
    """What a command and its children took, and its exit code; `popen` as subprocess.Popen's."""
    quiet = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    popen["env"] = {**os.environ, **quiet, **popen.get("env", {})}
    start = time.perf_counter()
    child = subprocess.Popen(["nice", "-n", str(NICE), *map(str, command)], **popen)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    took = Took(time.perf_counter() - start, used.ru_utime + used.ru_stime)
    return took, child.returncode


def script(name: str, python: Path | None = None) -> list[str]:
    """The beginning of a command that runs a script beside this file."""
    return [str(python or sys.executable), str(Path(__file__).parent / name)]


def remember(made: Made, file: Path) -> Made:
    """Keep what a row made, so that it is not made again."""
    file.write_text(json.dumps(asdict(made), indent=1), "utf-8")
    return made


def remembered(file: Path) -> Made | None:
    """What `remember` kept, if it is still there."""
    if not file.exists():
        return None
    table = json.loads(file.read_text("utf-8"))
    lists = {name: tuple(table[name]) for name in ("files", "reused")}
    return Made(**{**table, **lists, "took": Took(**table["took"])})
