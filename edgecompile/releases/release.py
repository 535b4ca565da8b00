"""Releases to compare: a bundle, which is checked, or the baseline that a check recorded."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.errors import LimitError, UsageError
from edgecompile.passes import Progress
from edgecompile.releases import baseline_file, regression
from edgecompile.releases.baseline import Baseline, of_report, path_of
from edgecompile.releases.regression import Rule
from edgecompile.report import CheckReport, Row
from edgecompile.report.files import folder_of, write_reports
from edgecompile.runtime.manifest import read_manifest

UNPROVEN = "unproven"  # the name that lets a comparison pass that proves nothing worse


@dataclass(frozen=True)
class Request:
    """How bundles are checked; as in `recheck.Recheck`."""

    source: str | None = None
    data: Path | None = None
    allow: tuple[str, ...] = ()
    recipe: Path | None = None


@dataclass(frozen=True)
class Release:
    """A baseline and where it is from."""

    place: Path
    baseline: Baseline


def measured(place: Path, request: Request, progress: Progress) -> Release:
    """Of a bundle's folder by checking it now, of a file by reading it."""
    if not place.is_dir():
        return Release(place, baseline_file.read(place))
    from edgecompile.recheck import Recheck, recheck

    asked = Recheck(place, request.source, request.data, request.allow, recipe=request.recipe)
    report = recheck(asked, progress)
    return Release(place, of_report(report, read_manifest(place)))


def lost(old: Baseline, new: Baseline, rule: Rule, allow: Iterable[str]) -> tuple[Row, ...]:
    """What the new release lost; what is unproven is only measured where that is allowed."""
    rows = regression.compare(old, new, rule)
    if UNPROVEN not in allow:
        return rows
    return tuple(
        dataclasses.replace(
            row, verdict="measured", detail=f"unproven, allowed by name: {row.detail}"
        ) if row.verdict == "unproven" else row
        for row in rows
    )  # fmt: skip


def against(report: CheckReport, bundle: Path, old: Release, rule: Rule) -> CheckReport:
    """The report of a new bundle with what it lost beyond the old one; written again."""
    new = of_report(report, read_manifest(bundle))
    rows = lost(old.baseline, new, rule, report.allowed)
    note = f"compared with {old.place.name}, manifest {old.baseline.header.manifest_sha256[:16]}"
    report = dataclasses.replace(
        report, rows=(*report.rows, *rows), notes=(*report.notes, note)
    )
    write_reports(report, folder_of(bundle))
    return report


def record(report: CheckReport, bundle: Path) -> Path:
    """Write the baseline of a bundle that passed; one of another source is never replaced."""
    if not report.accepted:
        raise LimitError(
            str(bundle), f"verdict {report.verdict}: no release to compare others with", "pass",
            "record a bundle that passes",
        )  # fmt: skip
    found = of_report(report, read_manifest(bundle))
    file = path_of(found.header)
    if file.exists():
        before = baseline_file.read(file).header.source_sha256
        if before != found.header.source_sha256:
            raise UsageError(
                str(file), f"is of another source ({before[:16]})", found.header.source_sha256[:16],
                "move that file away first, or give the model another name",
            )  # fmt: skip
    baseline_file.write(found, file)
    return file


def to_json(old: Release, new: Release, rows: Iterable[Row]) -> dict[str, Any]:
    """Both headers, the rows and the verdict."""
    rows = tuple(rows)
    sides = {name: {"place": str(side.place), **dataclasses.asdict(side.baseline.header)}
             for name, side in (("old", old), ("new", new))}  # fmt: skip
    verdict = regression.verdict_of(rows)
    return {"format": 1, **sides, "verdict": verdict, "rows": [_row_json(row) for row in rows]}


def _row_json(row: Row) -> dict[str, Any]:
    table = dataclasses.asdict(dataclasses.replace(row, evidence=None))
    del table["evidence"], table["times_ms"]
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in table.items()}  # fmt: skip


def exit_with(where: str, rows: Iterable[Row]) -> None:
    """LimitError (6) but for a pass."""
    rows = tuple(rows)
    verdict = regression.verdict_of(rows)
    if verdict == "pass":
        return
    names = [row.metric for row in rows if row.verdict == verdict]
    ways = {
        "fail": "keep the old release, or raise --tolerance by name",
        "unproven": "more --data, a larger --tolerance, or --allow unproven to fail only what is "
                    "proven worse",
    }  # fmt: skip
    raise LimitError(where, f"verdict {verdict} ({', '.join(names)})", "pass", ways[verdict])
