"""Reports as tables on a terminal."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile.errors import UsageError
from edgecompile.report import CheckReport, Row

COLOURS = {"pass": "green", "fail": "bold red", "unproven": "yellow", "measured": "dim"}
QUALITY = ("cosine_mean", "kl_mean", "accuracy_ratio", "relative_error")
SPEED = ("decode_speed", "latency")


def show(report: CheckReport, console: Console) -> None:
    """All rows of one check, the verdict below."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "metric", "value", "limit", "samples"):
        table.add_column(name, justify="right" if name in ("value", "limit", "samples") else "left")
    table.add_column("verdict", overflow="fold")
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    if report.ranking:
        console.print(_ranking(report))
    colour = COLOURS[report.verdict]
    console.print(f"verdict: [{colour}]{report.verdict}[/{colour}], {report.where}\n")


def _ranking(report: CheckReport) -> Table:
    """The backends that --relock measured, the chosen one first."""
    table = Table("backend", "check", "score", "spread", "why not", box=None, pad_edge=False)
    for row in report.ranking:
        score = f"{row['milliseconds']:.4g} ms" if row["milliseconds"] is not None else ""
        spread = " to ".join(f"{value:.4g}" for value in row["spread"])
        table.add_row(row["backend"], row["verdict"], score, spread, row["why"])
    return table


def _cells(row: Row) -> tuple[str, ...]:
    sign = "≥" if row.better == "higher" else "≤"
    limit = "" if row.limit is None else f"{sign} {row.limit:.5g}"
    verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]" if row.verdict != "measured" else ""
    detail = f" {row.detail}" if row.detail and row.verdict != "pass" else ""
    value, samples = number(row.value, row.unit), str(row.samples)
    return row.step, row.metric, value, limit, samples, verdict + detail


def number(value: float, unit: str) -> str:
    """A value with its unit; never shown rounder than it is judged by eye."""
    return f"{value:.5g} {unit}".strip() if math.isfinite(value) else "none"


def summary_rows(folder: Path) -> list[dict[str, Any]]:
    """What each `<bundle>.report/report.json` below `folder` says, in a few figures."""
    found = []
    for file in sorted(folder.glob("*.report/report.json")):
        report = json.loads(file.read_text(encoding="utf-8"))
        rows = {row["metric"]: row for row in report["rows"]}
        found.append({
            "bundle": report["bundle"],
            "size": _figure(rows, ("size",)),
            "speed": _figure(rows, SPEED),
            "quality": _figure(rows, QUALITY),
            "perplexity": _times(rows),
            "weights": report["width"],
            "verdict": report["verdict"],
        })  # fmt: skip
    return found


def _figure(rows: dict[str, dict[str, Any]], names: tuple[str, ...]) -> str:
    for name in names:
        row = rows.get(name)
        if row is not None and row["value"] is not None:
            shown = f"{row['value']:.4g} {row['unit']}".strip()
            return f"{name.replace('_mean', '')} {shown}" if len(names) > 2 else shown
    return ""


def _times(rows: dict[str, dict[str, Any]]) -> str:
    """The perplexity as a multiple of the source's."""
    row = rows.get("perplexity_ratio")
    return f"x {row['value']:.4f}" if row is not None and row["value"] is not None else ""


def summary(folder: Path, console: Console) -> None:
    """The table of all bundles below `folder`."""
    rows = summary_rows(folder)
    if not rows:
        raise UsageError(str(folder), "no *.report in it", "the output folder of a build")
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        right = name in ("size", "speed", "perplexity")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        colour = COLOURS[row["verdict"]]
        table.add_row(*[str(v) for v in list(row.values())[:-1]], f"[{colour}]{row['verdict']}[/]")
    console.print(table)
