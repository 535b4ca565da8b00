"""The C++ runner: compiled for arm64 once, started under qemu, spoken to like the Python worker."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompile import cache, shims
from edgecompile.emulate.kits import Kit, digest, kit_of
from edgecompile.emulate.levels import Level
from edgecompile.emulate.sysroot import Processor, write_sysroot
from edgecompile.emulate.tools import Tools, find_tools, run
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.worker_client import Float32, Worker

SOURCES = ("runner.cpp", "wire.cpp", "json.cpp", "model.cpp", "golden.cpp")
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra")


@dataclass(frozen=True)
class Emulator:
    """One level with the runner of one engine."""

    level: Level
    tools: Tools
    kit: Kit

    @classmethod
    def of(cls, level: Level, engine: str) -> Emulator:
        """Find the tools first: nothing is downloaded for a machine that cannot run it."""
        return cls(level, find_tools(), kit_of(engine))

    @cached_property
    def processor(self) -> Processor:
        """What the emulated processor says of itself."""
        program = self._compiled("processor", ("processor.cpp",), ("-static",))
        return Processor.parse(run([*self._qemu, str(program)], self.level.name))

    @cached_property
    def sysroot(self) -> Path:
        """The folder for qemu's -L."""
        made = digest(self.processor.cpuinfo(os.cpu_count() or 1), str(self.tools.libraries))
        return cache.stage(
            "emulate.sysroot", made,
            lambda out: write_sysroot(out, self.tools.libraries, self.processor),
        )[0]  # fmt: skip

    @cached_property
    def program(self) -> Path:
        """The engine's runner."""
        kit = self.kit.folder()
        places = {"include": str(kit / "include"), "lib": str(kit / "lib")}
        flags = tuple(flag.format(**places) for flag in ("-isystem{include}", *self.kit.flags))
        return self._compiled("runner", (*SOURCES, *self.kit.sources), flags)

    def command(self, bundle: Path, threads: int) -> list[str]:
        """The command that serves a bundle on the emulated processor."""
        libraries = self.kit.folder() / "lib"
        return [
            *self._qemu, "-L", str(self.sysroot), "-E", f"LD_LIBRARY_PATH={libraries}",
            str(self.program), str(bundle), "--threads", str(threads),
        ]  # fmt: skip

    @property
    def _qemu(self) -> list[str]:
        return [self.tools.qemu, "-cpu", self.level.cpu]

    def _compiled(self, name: str, sources: Sequence[str], flags: Sequence[str]) -> Path:
        """The program of these sources (FLAGS, then `flags`), compiled at the first call."""
        folder = shims.folder("cpp")
        texts = [(folder / name).read_text() for name in sources]
        texts += [header.read_text() for header in sorted(folder.glob("*.h"))]
        made = digest(name, [*FLAGS, *flags], texts, self.tools.compiler_version)

        def work(out: Path) -> None:
            files = [str(folder / source) for source in sources]
            command = [self.tools.compiler, *FLAGS, "-o", str(out / name), *files, *flags]
            run(command, f"compiling {name} for arm64")

        return cache.stage(f"emulate.{name}", made, work)[0] / name


class EmulatedWorker(Worker):
    """A bundle in the C++ runner under qemu; texts become token ids in the host's worker.

    Hashes are the caller's to verify. Every text is computed by itself, as an app would.
    """

    def __init__(
        self, emulator: Emulator, bundle: Path, info: Manifest, host: Worker, threads: int
    ) -> None:
        self._host, self._labels = host, info.labels
        self._start(emulator.command(bundle, threads))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """By the host: the runner has no tokenizer."""
        return self._host.tokenize(texts)

    def embed(self, texts: Sequence[str], normalize: bool | None = None) -> Float32:
        """float32 [n, dim]."""
        return self.embed_ids(self.tokenize(texts), normalize)

    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label -> probability for each text."""
        header = {"op": "classify", "ids": self.tokenize(texts)}
        rows: NDArray[np.float32] = self._ask(header)[1]["probabilities"]
        return [dict(zip(self._labels, map(float, row), strict=True)) for row in rows]
