"""report.md: the report as a pull request's comment, in what GitHub lets through."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edgecompile.report import CheckReport, Row
from edgecompile.report.attribution import way
from edgecompile.report.words import interval, limited, number, valued

SIGNS = {"pass": "✅", "fail": "❌", "unproven": "⚠️", "measured": ""}
COLUMNS = ("step", "metric", "value", "interval", "limit", "samples", "verdict")
RIGHT = ("value", "interval", "limit", "samples")
_MARKUP = re.compile(r"([\\`*\[\]<>|~#])")


def markdown(report: CheckReport) -> str:
    """The verdict, what is wrong, what was judged by samples; all rows folded below."""
    lines = [
        f"# {SIGNS[report.verdict]} {_plain(report.bundle)}: {report.verdict}",
        "",
        f"{_plain(report.model)} ({report.task}) for {_plain(report.target)}, weights "
        f"{report.width}, on {report.engine} {report.engine_version}.",
        f"{report.where[0].upper()}{_plain(report.where[1:])}; manifest "
        f"{report.manifest_sha256[:16]}.",
        *_wrong(report.rows),
        *_at_fault(report),
    ]
    head = [row for row in report.rows if row.limit != 0 and row.verdict != "measured"]
    lines += ["", *_table([replace(row, detail="") for row in head])] if head else []
    lines += ["", *_summed(report.rows)]
    lines += ["", *(f"- {_plain(note)}" for note in report.notes)] if report.notes else []
    lines += [*_ranking(report), "", *_folded(report)]
    return "\n".join(lines) + "\n"


def _wrong(rows: Sequence[Row]) -> Iterator[str]:
    """A line a row that did not pass, with the reason."""
    bad = [row for row in rows if row.verdict in ("fail", "unproven")]
    if bad:
        yield ""
    for row in bad:
        limit = f", limit {limited(row)}" if row.limit is not None else ""
        between = f", interval {interval(row)}" if interval(row) and not row.detail else ""
        why = f": {_plain(row.detail)}" if row.detail else ""
        yield (
            f"- {SIGNS[row.verdict]} **{row.metric}** ({row.verdict}): {valued(row)}{limit}"
            f"{between}{why}"
        )


def _at_fault(report: CheckReport) -> Iterator[str]:
    """The stage that the report names."""
    if report.culprit:
        said = "At fault" if report.verdict == "fail" else "Most was lost at"
        yield from ("", f"{said}: **{_plain(report.culprit)}**.")


def _summed(rows: Sequence[Row]) -> Iterator[str]:
    """The costs and the exact comparisons, one line each."""
    costs = [
        f"{row.metric} {valued(row, 4)}" + (f" ({_plain(row.detail)})" if row.detail else "")
        for row in rows if row.step == "cost" and row.verdict == "measured"
    ]  # fmt: skip
    if costs:
        yield f"Costs: {', '.join(costs)}."
    exact = sum(row.limit == 0 and row.verdict == "pass" for row in rows)
    if exact:
        yield f"{exact} exact comparisons without a difference."


def _folded(report: CheckReport) -> Iterator[str]:
    yield f"<details><summary>All {len(report.rows)} rows, samples and digests</summary>"
    yield ""
    yield from _table(report.rows)
    yield ""
    for name, table in (("samples", report.samples), ("data", report.data),
                        ("seconds", report.seconds)):  # fmt: skip
        if table:
            yield f"- {name}: " + ", ".join(f"{key} {_plain(str(table[key]))}" for key in table)
    for metric, values in way(report):
        yield f"- {metric} by stage: {_plain(values)}"
    yield f"- allowed by name: {', '.join(map(_plain, report.allowed)) or 'nothing'}"
    yield f"- manifest: {report.manifest_sha256}"
    yield ""
    yield "</details>"


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield _line(COLUMNS)
    yield "|" + "|".join("---:" if name in RIGHT else "---" for name in COLUMNS) + "|"
    yield from map(_row, rows)


def _row(row: Row) -> str:
    sign = "" if row.verdict == "measured" else f"{SIGNS[row.verdict]} {row.verdict}"
    return _line((
        row.step, row.metric, valued(row), interval(row), limited(row), f"{row.samples:,}",
        f"{sign} {_plain(row.detail)}".strip(),
    ))  # fmt: skip


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Text that is no markup, nor calls anyone: names and notes come from models."""
    flat = " ".join(text.split())
    return _MARKUP.sub(r"\\\1", flat.replace("&", "&amp;")).replace("@", "@\u200b")


def _ranking(report: CheckReport) -> list[str]:
    """What --relock measured, as a table; nothing without it."""
    if not report.ranking:
        return []
    lines = ["", f"Chosen by measuring ({report.ranking[0]['threads']} threads):", ""]
    lines += ["| backend | verdict | score ms | min to max | why not |", "|---|---|---:|---|---|"]
    for row in report.ranking:
        score = number(row["milliseconds"], 6) if row["milliseconds"] is not None else ""
        spread = " to ".join(f"{value:.4g}" for value in row["spread"])
        lines.append(_line((row["backend"], row["verdict"], score, spread, _plain(row["why"]))))
    return lines
