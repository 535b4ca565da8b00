"""Our rows: `edgecompile build` for one target and backend, from the shelf's recipe."""
from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import Made, Setup, Took, run

LIBRARIES = {"onnxruntime": "onnxruntime", "gguf": "llama.cpp", "openvino": "openvino",
             "executorch": "executorch"}  # fmt: skip
QUICK = {"text-generation": ("--set=check.tokens=512",)}  # all is measured again here
VERDICTS = (0, 6)  # exit codes of a build that sealed something: passed, or a limit broke


@dataclass(frozen=True)
class Ours:
    """`edgecompile build MODEL --recipe R --variant V --target T --set target.backend=B`."""

    task: str
    target: str
    backend: str
    precision: str
    recipe: Path
    variant: str
    fixed: bool  # the target's file names the backend, and no other is asked for

    adapter = "edgecompile"

    @property
    def name(self) -> str:
        """As the table's cells."""
        return f"edgecompile {self.target} {self.backend} {self.precision}"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Tool, target, engine, precision."""
        return "edgecompile", self.target, LIBRARIES[self.backend], self.precision

    @property
    def library(self) -> str:
        """As worker.py imports it."""
        return LIBRARIES[self.backend]

    def make(self, setup: Setup) -> Made:
        """The bundle, sealed or rejected: a limit that breaks must not hide what it measures."""
        words = [f"--target={self.target}", "--variant", self.variant]
        if not self.fixed:
            words.append(f"--set=target.backend={self.backend}")
        words += QUICK.get(self.task, ())
        recipe, cache = self.recipe, setup.work / "cache"
        took, (result,) = build(setup, recipe, setup.made(self), cache, words)
        bundle = Path(result["bundle"])
        manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
        files = (f for f in sorted((bundle / "model").rglob("*")) if f.is_file())
        return Made(
            str(bundle), tuple(map(str, files)), took,
            f"verdict {result['report']['verdict']}", stages=result["seconds"],
            reused=tuple(result["reused"]), digest=manifest["weights_digest"],
        )  # fmt: skip


def build(
    setup: Setup, recipe: Path, out: Path, cache: Path, words: Sequence[str]
) -> tuple[Took, list[dict[str, Any]]]:
    """What one `edgecompile build` into `out` took, and what it says of each target.

    It runs in `out`, so that no lock file of another build matters.
    """
    command = [
        Path(sys.executable).parent / "edgecompile", "-q", "build", setup.model,
        "--recipe", recipe, "--task", setup.task, "--data", setup.calibration, "-o", out,
        "--overwrite", "--format", "json", *words,
    ]  # fmt: skip
    said, log = out / "build.json", out / "log.txt"
    with said.open("wb") as stdout, log.open("wb") as stderr:
        took, code = run(
            command, setup.threads, stdout=stdout, stderr=stderr, cwd=out,
            env={"EDGECOMPILE_CACHE": str(cache)},
        )  # fmt: skip
    if code not in VERDICTS:
        found = log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {code}: {found}")
    return took, json.loads(said.read_text("utf-8"))
