"""Prints which faults the check catches, at which magnitude, by what, in how many seconds.

    python -m tests.faults.table [--format text|json|markdown] [--only WORD] [--ladder]

Without --ladder each fault is planted once, at its recorded magnitude.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tests.faults.kinds import every_fault
from tests.faults.planting import Fault, Outcome, checked, faintest, planted
from tests.faults.twins import Clones

HEADINGS = {
    "kind": "kind", "place": "place", "twin": "model, engine", "magnitude": "magnitude",
    "passes_at": "passes at", "caught_by": "caught by", "stage": "stage named",
    "step_0": "seen by step 0", "seconds": "s", "why": "known",
}  # fmt: skip
MISSED = "MISSED"
MISSED_COLUMNS = ("kind", "place", "twin", "passes_at", "why")


@dataclass(frozen=True)
class Line:
    """One fault's row of the table."""

    kind: str
    place: str
    twin: str
    magnitude: str
    passes_at: str
    caught_by: str
    stage: str
    step_0: str
    seconds: str
    why: str = ""


def measured(fault: Fault, clones: Clones, folder: Path, ladder: bool) -> Line:
    """Plant it, once or from plain to faint."""
    clean = clones.get(fault.twin)
    if ladder:
        tried = list(faintest(fault, clean, folder))
    else:
        tried = [(fault.at, checked(planted(fault, clean, folder, fault.at), clean))]
    seen = [(magnitude, one) for magnitude, one in tried if one.caught]
    passing = [magnitude for magnitude, one in tried if not one.caught]
    if not seen:
        shown = dataclasses.replace(_line(fault, *tried[0]), magnitude="", caught_by=MISSED)
        return dataclasses.replace(shown, passes_at=_shown(fault, passing[0]))
    line = _line(fault, *seen[-1])
    return dataclasses.replace(line, passes_at=_shown(fault, passing[0]) if passing else "")


def _line(fault: Fault, magnitude: float, outcome: Outcome) -> Line:
    metrics = list(dict.fromkeys(row.metric for row in outcome.wrong))
    return Line(
        fault.kind, fault.place, fault.twin.name, _shown(fault, magnitude), "",
        ", ".join(metrics) or outcome.refused[:60], outcome.stage,
        "yes" if outcome.seen_by_step_0 else "no", f"{outcome.seconds:.1f}",
        fault.missed or fault.misnamed,
    )  # fmt: skip


def _shown(fault: Fault, magnitude: float) -> str:
    return f"{magnitude:g} {fault.unit}".strip() if fault.unit else "as it is"


def as_text(lines: list[Line], bar: str = "  ") -> str:
    """Columns of equal width."""
    rows = [list(HEADINGS.values()), *(list(dataclasses.astuple(line)) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(bar.join(row).rstrip() for row in padded)


def as_markdown(lines: list[Line]) -> str:
    """The tables of docs/checks.md: what is caught, and what is missed, with the reason."""
    caught = [line for line in lines if line.caught_by != MISSED]
    missed = [line for line in lines if line.caught_by == MISSED]
    return f"{_table(caught, HEADINGS.keys() - {'why'})}\n\n{_table(missed, MISSED_COLUMNS)}"


def _table(lines: list[Line], columns: Collection[str]) -> str:
    shown = [name for name in HEADINGS if name in columns]
    rows = [[HEADINGS[name] for name in shown], ["---"] * len(shown)]
    rows += [[getattr(line, name) for name in shown] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_json(lines: list[Line]) -> str:
    """A list of objects."""
    return json.dumps([dataclasses.asdict(line) for line in lines], indent=1)


def main() -> None:
    """Print the table of all faults, or of those whose name has a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    parser.add_argument("--only", default="")
    parser.add_argument("--ladder", action="store_true")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGECOMPILE_CACHE"] = f"{folder}/cache"
        clones = Clones(Path(folder))
        for number, fault in enumerate(every_fault()):
            if options.only in fault.name:
                place = Path(folder) / f"fault-{number}"
                lines.append(measured(fault, clones, place, options.ladder))
                sys.stderr.write(" | ".join(dataclasses.astuple(lines[-1])) + "\n")
    shown = {"text": as_text, "markdown": as_markdown, "json": as_json}
    sys.stdout.write(shown[options.format](lines) + "\n")


if __name__ == "__main__":
    main()
