"""A fault, its planting in a copy of a clean bundle, and what the check says of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import bundle as sealing
from edgecompile.check import CheckReport, check_bundle
from edgecompile.checks import sealed
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import float_digest, weights_digest
from edgecompile.report import Row
from tests.faults.twins import LIMITS, Clean, Twin, quiet, read_manifest

Plant = Callable[[Path, Clean, float], None]
REFUSED = "refused"  # the bundle could not be opened or decoded


@dataclass(frozen=True)
class Fault:
    """One kind of fault at one place in one twin.

    `plant` changes a copy of the clean bundle; `ladder` are magnitudes from plain to faint, `at`
    the faintest that a check was seen to catch, `stage` what a report has to name. `missed` says
    why today's check passes it, and what would not; `misnamed` why its report names another stage.
    """

    kind: str
    place: str  # source, recipe, onnx, openvino, executorch, gguf, tokenizer, template, runtime
    twin: Twin
    plant: Plant
    stage: str
    ladder: tuple[float, ...] = (1.0,)
    at: float = 1.0
    unit: str = ""
    missed: str = ""
    misnamed: str = ""
    unseen: bool = False  # by an application that uses the bundle's runtime
    slow: bool = False

    @property
    def name(self) -> str:
        """`rope base (onnx, decoder)`: unique."""
        return f"{self.kind} ({self.place}, {self.twin.name})"

    @property
    def plain(self) -> float:
        """One step of the ladder plainer than `at`: models trained elsewhere differ a little."""
        return self.ladder[max(0, self.ladder.index(self.at) - 1)]


@dataclass(frozen=True)
class Outcome:
    """What the check said: its report, or why it refused the bundle."""

    report: CheckReport | None
    refused: str
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether the bundle did not pass."""
        return self.report is None or self.report.verdict != "pass"

    @property
    def wrong(self) -> tuple[Row, ...]:
        """Rows that failed or stayed unproven."""
        rows = self.report.rows if self.report else ()
        return tuple(row for row in rows if row.verdict in ("fail", "unproven"))

    @property
    def seen_by_step_0(self) -> bool:
        """Whether the comparison of sealed bytes says anything."""
        return bool(self.refused) or any(row.step == sealed.STEP for row in self.wrong)

    @property
    def stage(self) -> str:
        """What the report names."""
        return REFUSED if self.report is None else named_stage(self.report)


def named_stage(report: CheckReport) -> str:
    """Where a report says that it went wrong; empty where it passes."""
    return report.culprit


def planted(fault: Fault, clean: Clean, folder: Path, magnitude: float) -> Path:
    """A bundle with the fault in it, sealed again."""
    out = folder / "bundle"
    shutil.copytree(clean.bundle, out)
    fault.plant(out, clean, magnitude)
    reseal(out)
    return out


def reseal(folder: Path) -> None:
    """Digests of codes, of floats and of files as they now are."""
    manifest = read_manifest(folder)
    decoded = sealed.decode(folder, manifest)
    for entry in manifest["tensors"]:
        entry["sha256"] = decoded.quantized[entry["name"]].digest(entry["name"])
    for entry in manifest["floats"]:
        values = decoded.floats[entry["name"]]
        entry["sha256"] = float_digest(entry["name"], values, entry["dtype"])
    for what, digest in (("tensors", "weights_digest"), ("floats", "floats_digest")):
        manifest[digest] = weights_digest((e["name"], e["sha256"]) for e in manifest[what])
    sealing.write_manifest(folder, manifest)


def checked(folder: Path, clean: Clean) -> Outcome:
    """The check of a sealed bundle against the true source, which is told nothing."""
    start = time.perf_counter()
    try:
        report: CheckReport | None = check_bundle(
            folder, clean.source, clean.corpus, LIMITS, quiet
        )  # fmt: skip
        refused = ""
    except BadInputError as error:  # a library that is missing proves nothing
        report, refused = None, str(error)
    return Outcome(report, refused, time.perf_counter() - start)


FAULTS: list[Fault] = []


def fault(kind: str, place: str, twin: Twin, stage: str, **more: Any) -> Callable[[Plant], Plant]:
    """Registers the function under it as a fault; of several engines, several times."""

    def register(plant: Plant) -> Plant:
        FAULTS.append(Fault(kind, place, twin, plant, stage, **more))
        return plant

    return register


def faintest(
    fault: Fault, clean: Clean, folder: Path
) -> Iterator[tuple[float, Outcome]]:
    """The outcome of each magnitude from plain to faint, the first that passes included."""
    for number, magnitude in enumerate(fault.ladder):
        outcome = checked(planted(fault, clean, folder / str(number), magnitude), clean)
        yield magnitude, outcome
        shutil.rmtree(folder / str(number))
        if not outcome.caught:
            return
