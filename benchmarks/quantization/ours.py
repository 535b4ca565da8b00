"""Our rows: one build of the model for each of two targets from one list of settings."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import engines
from held_out import Window
from rows import Made, Setup

from edgecompile.build import build
from edgecompile.numerics.schemes import Float32
from edgecompile.plan import Request, plan

QUICK = ("check.tokens=512",)  # the bundle is measured here; its own check need not be long
ENGINES = {"gguf": "llama.cpp", "cpu": "onnxruntime"}


@dataclass(frozen=True)
class Ours:
    """`edgecompile build MODEL --target T --data CALIBRATION --set ...`."""

    label: str
    settings: tuple[str, ...]
    target: str = "gguf"

    @property
    def name(self) -> str:
        """With the target, as both share the label."""
        return f"ours {self.label} ({self.target})"

    def make(self, setup: Setup) -> Made:
        """The bundle, sealed or rejected: a limit that breaks must not hide what it measures."""
        out = setup.made(self)
        request = Request(
            str(setup.model.folder), (self.target,), out, settings=(*self.settings, *QUICK),
            data=setup.calibration, task="text-generation", overwrite=True,
        )  # fmt: skip
        (result,) = build(plan(request), lambda *_: None)
        manifest = json.loads((result.bundle / "manifest.json").read_text("utf-8"))
        files = (f for f in sorted((result.bundle / "model").iterdir()) if f.is_file())
        counts: dict[str, int] = {}
        for tensor in manifest["tensors"]:
            counts[tensor["scheme"]] = counts.get(tensor["scheme"], 0) + 1
        schemes = ", ".join(f"{n} x {scheme}" for scheme, n in sorted(counts.items()))
        return Made(
            tuple(map(str, files)), ENGINES[self.target],
            f"{schemes}; verdict {result.report.verdict}", manifest["weights_digest"],
            self.label,
        )  # fmt: skip

    def answer(self, setup: Setup, made: Made, windows: Sequence[Window]) -> Iterator[Float32]:
        """Through the runtime that ships in the bundle."""
        return engines.bundle(Path(made.files[0]).parents[1], windows, setup.threads)
