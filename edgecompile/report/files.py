"""A report on disk: report.json for programs, report.html and .md for people, junit.xml for CI."""
from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from xml.etree import ElementTree

from edgecompile.report import CheckReport, Row, page

SIGNS = {"pass": "pass", "fail": "**FAIL**", "unproven": "**unproven**", "measured": ""}


def folder_of(bundle: Path) -> Path:
    """`<bundle>.report`, beside the bundle: the sealed folder holds nothing measured."""
    return bundle.with_name(bundle.name + ".report")


def write_reports(report: CheckReport, folder: Path) -> None:
    """Write the files into a new `folder`, replacing an older report as a whole.

    What `explain` found of the very same bytes stays.
    """
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    text = json.dumps(report.to_json(), indent=2, sort_keys=True, allow_nan=False)
    (draft / "report.json").write_text(text + "\n", "utf-8")
    (draft / "report.md").write_text(markdown(report), "utf-8")
    (draft / "junit.xml").write_text(junit(report), "utf-8")
    if page.explained(folder, report.manifest_sha256):
        shutil.copyfile(folder / page.EXPLAINED, draft / page.EXPLAINED)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    page.write(folder)


def markdown(report: CheckReport) -> str:
    """The verdict and one table of all rows."""
    head = [
        f"# {report.bundle}: {report.verdict}",
        "",
        f"{report.model} ({report.task}) for {report.target}, weights {report.width}, on "
        f"{report.engine} {report.engine_version}.",
        f"{report.where[0].upper()}{report.where[1:]}; manifest {report.manifest_sha256[:16]}.",
        "",
        "| step | metric | value | limit | samples | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    rows = [_markdown_row(row) for row in report.rows]
    notes = ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    return "\n".join([*head, *rows, *notes, *_ranking(report)]) + "\n"


def _ranking(report: CheckReport) -> list[str]:
    """What --relock measured, as a table; nothing without it."""
    if not report.ranking:
        return []
    lines = ["", f"Chosen by measuring ({report.ranking[0]['threads']} threads):", ""]
    lines += ["| backend | verdict | score ms | min to max | why not |", "|---|---|---:|---|---|"]
    for row in report.ranking:
        score = _number(row["milliseconds"]) if row["milliseconds"] is not None else ""
        spread = " to ".join(f"{value:.4g}" for value in row["spread"])
        cells = row["backend"], row["verdict"], score, spread, row["why"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _markdown_row(row: Row) -> str:
    limit = ""
    if row.limit is not None:
        limit = f"{'≥' if row.better == 'higher' else '≤'} {row.limit:.6g}"
    detail = f" {row.detail}" if row.detail else ""
    cells = (
        row.step, row.metric, f"{_number(row.value)} {row.unit}".strip(), limit, str(row.samples),
        f"{SIGNS[row.verdict]}{detail}",
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "none"


def junit(report: CheckReport) -> str:
    """JUnit XML: a test case a row that has a limit; an unproven row is a failure too."""
    cases = [row for row in report.rows if row.verdict != "measured"]
    bad = [row for row in cases if row.verdict != "pass"]
    suite = ElementTree.Element(
        "testsuite", name=report.bundle, tests=str(len(cases)), failures=str(len(bad)), errors="0"
    )
    for row in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=row.step, name=row.metric)
        if row.verdict != "pass":
            text = f"{_number(row.value)} {row.unit}, limit {row.limit}. {row.detail}"
            ElementTree.SubElement(case, "failure", message=row.verdict).text = _printable(text)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
