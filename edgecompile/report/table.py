"""Reports as tables on a terminal."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecompile.errors import UsageError
from edgecompile.report import CheckReport, Row
from edgecompile.report.attribution import way
from edgecompile.report.words import interval, limited, needs, valued

COLOURS = {"pass": "green", "fail": "bold red", "unproven": "yellow", "measured": "dim"}
QUALITY = ("cosine_mean", "kl_mean", "accuracy_ratio", "relative_error")
SPEED = ("decode_speed", "latency")
WIDE = 92  # columns of a terminal that has room for the samples


def show(report: CheckReport, console: Console) -> None:
    """All rows of one check by step, then why some did not pass, the verdict last."""
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, collapse_padding=not wide)
    table.add_column("metric", overflow="fold", min_width=25)
    table.add_column("value", justify="right", overflow="fold", max_width=None if wide else 15)
    for name in ("interval", "limit", *(("samples",) if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True, min_width=8)
    step = ""
    for row in report.rows:
        if row.step != step:
            step = row.step
            table.add_row(f"[dim]{escape(step)}[/]")
        table.add_row(*_cells(row, wide))
    console.print(table)
    for row in report.rows:
        if row.verdict in ("fail", "unproven") and row.detail:
            colour = COLOURS[row.verdict]
            console.print(f"[{colour}]{row.verdict}[/] {row.metric}: {escape(row.detail)}")
    for row in report.rows:
        if row.step == "cost" and row.unit in ("ms", "tokens/s") and row.detail:
            console.print(f"[dim]{row.metric}:[/] {escape(row.detail)}")
    for metric, stages in way(report):
        console.print(f"stages {metric}: {stages}")
    if report.culprit:
        said = "at fault" if report.verdict == "fail" else "most was lost at"
        console.print(f"{said}: [bold]{escape(report.culprit)}[/]")
    for note in (*_needs(report), *report.notes):
        console.print(f"note: {escape(note)}")
    if report.ranking:
        console.print(_ranking(report))
    colour = COLOURS[report.verdict]
    console.print(f"verdict: [{colour}]{report.verdict}[/{colour}], {escape(report.where)}\n")


def _needs(report: CheckReport) -> list[str]:
    """What a stricter limit would take, where more samples could prove it."""
    asked = [f"{row.metric} {needs(row)}" for row in report.rows if needs(row)]
    if not asked:
        return []
    return [f"samples that would prove half of what the limit allows: {', '.join(asked)}"]


def _ranking(report: CheckReport) -> Table:
    """The backends that --relock measured, the chosen one first."""
    table = Table("backend", "check", "score", "spread", "why not", box=None, pad_edge=False)
    for row in report.ranking:
        score = f"{row['milliseconds']:.4g} ms" if row["milliseconds"] is not None else ""
        spread = " to ".join(f"{value:.4g}" for value in row["spread"])
        table.add_row(row["backend"], row["verdict"], score, spread, row["why"])
    return table


def _cells(row: Row, wide: bool) -> tuple[str, ...]:
    verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]" if row.verdict != "measured" else ""
    samples = (f"{row.samples:,}",) if wide else ()
    return (f" {row.metric}", escape(valued(row)), interval(row), limited(row), *samples, verdict)


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
    for name in rows[0]:  # in a narrow terminal words wrap and names fold; nothing is cut
        right, words = name in ("size", "speed", "perplexity"), name in ("speed", "quality")
        table.add_column(
            name, justify="right" if right else "left", overflow="fold",
            no_wrap=not words and name != "bundle",
        )  # fmt: skip
    for row in rows:
        colour = COLOURS[row["verdict"]]
        table.add_row(*[str(v) for v in list(row.values())[:-1]], f"[{colour}]{row['verdict']}[/]")
    console.print(table)
