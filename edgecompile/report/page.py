"""report.html: one file by itself, of what lies in a report's folder and beside it.

It draws report.json, the sealed bundle's manifest, explain.json where there is one, and other
reports of the same model in the same folder. No script; names and notes are untrusted text.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2

from edgecompile.report import CheckReport, Row
from edgecompile.report import words as spelled
from edgecompile.report.figures import figures
from edgecompile.report.plots import (
    attention,
    bytes,
    frontier,
    latency,
    layers,
    noise,
    restored,
    saliency,
    shares,
    stages,
)
from edgecompile.report.reading import from_json

NAME, EXPLAINED = "report.html", "explain.json"
# What reading a table of another shape raises.
SHAPE = (AttributeError, IndexError, KeyError, TypeError, ValueError, jinja2.UndefinedError)
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Found:
    """All that a page may draw; empty where a file is not there."""

    report: CheckReport
    extra: Mapping[str, Any] = field(default_factory=dict)  # report.json as it is
    manifest: Mapping[str, Any] = field(default_factory=dict)
    explained: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[CheckReport, ...] = ()
    folders: tuple[Path, ...] = ()  # of the reports beside it


def write(folder: Path) -> Path:
    """Write report.html into a `<bundle>.report` folder, and anew those that show it beside theirs.

    Raises OSError without report.json.
    """
    found = gather(folder)
    file = _replace(folder, render(found))
    for other in found.folders:
        with contextlib.suppress(OSError, *SHAPE):  # a page less new than it could be
            _replace(other, render(gather(other)))
    return file


def _replace(folder: Path, text: str) -> Path:
    draft = folder / f".{NAME}.new"
    draft.write_text(text, encoding="utf-8")
    return draft.replace(folder / NAME)


def gather(folder: Path) -> Found:
    """The report in `folder`, and what belongs to the same bundle or model around it."""
    extra = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report = from_json(extra)
    manifest = folder.with_name(folder.name.removesuffix(".report")) / "manifest.json"
    beside = dict(_beside(folder, report))
    return Found(
        report, extra, _json(manifest, report.manifest_sha256),
        explained(folder, report.manifest_sha256), tuple(beside.values()), tuple(beside),
    )  # fmt: skip


def explained(folder: Path, digest: str) -> Mapping[str, Any]:
    """What `explain` found of the bundle of that manifest; empty where it explained none."""
    found = _json(folder / EXPLAINED)
    return found if found.get("manifest_sha256") == digest else {}


def _json(file: Path, digest: str = "") -> Mapping[str, Any]:
    """A file's table; empty where it is not there, is no table or has another digest."""
    try:
        data = file.read_bytes()
        found = json.loads(data)
    except (OSError, ValueError):
        return {}
    if digest and hashlib.sha256(data).hexdigest() != digest:
        return {}
    return found if isinstance(found, dict) else {}


def _beside(folder: Path, report: CheckReport) -> Iterator[tuple[Path, CheckReport]]:
    """Other bundles' reports of the same model, in the folder that this one is in."""
    for file in sorted(folder.parent.glob("*.report/report.json")):
        table = _json(file)
        if file.parent.name == folder.name or table.get("model") != report.model:
            continue
        with contextlib.suppress(*SHAPE):  # another format's
            yield file.parent, from_json(table)


def render(found: Found) -> str:
    """The page's text; the same text from the same files.

    Where a manifest or explain.json has a shape that is not known, without what they would show.
    """
    try:
        return _rendered(found)
    except SHAPE:
        note = "the manifest or explain.json has another shape than this version draws"
        report = replace(found.report, notes=(*found.report.notes, note))
        return _rendered(Found(report, beside=found.beside))


def _rendered(found: Found) -> str:
    report = found.report
    return _template().render(
        report=report, rows=report.rows, manifest=found.manifest, explained=found.explained,
        culprit=str(found.extra.get("culprit") or ""), figures=figures(report),
        bad=[row for row in report.rows if row.verdict in ("fail", "unproven")],
        judged=[row for row in report.rows if row.verdict != "measured"],
        exact=[row for row in report.rows if row.limit == 0 and row.verdict == "pass"],
        steps=_steps(report.rows), plots=_plots(found),
    )  # fmt: skip


def _plots(found: Found) -> dict[str, Any]:
    """Each plot, None or empty where there is nothing to draw."""
    report, extra = found.report, found.extra
    return {
        "quality": shares.quality(report.rows),
        "budgets": shares.budgets(report.rows),
        "stages": stages.waterfalls(extra.get("stages") or (), report.rows),
        "latency": latency.distributions(extra),
        "layers": layers.layer_errors(found.manifest.get("passes", ())),
        "bytes": bytes.parts(found.manifest) if found.manifest else [],
        "frontier": frontier.frontier(report, found.beside),
        "noise": noise.noise(found.explained),
        "restored": restored.restored(found.explained),
        "attention": attention.attention(found.explained),
        "saliency": saliency.saliency(found.explained),
    }


def _steps(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    """Rows by step, in the order of the check."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.step, []).append(row)
    return found


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals["words"] = spelled
    return environment.get_template("page.html")
