"""junit.xml: a test case a judged row, by the schemas that CI servers hold such files to."""
from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from xml.etree import ElementTree

from edgecompile.report import CheckReport, Row
from edgecompile.report.words import interval, limited, valued


def junit(report: CheckReport, when: datetime) -> str:
    """A suite of what was judged; an unproven row is a failure too.

    Cases have no times of their own, as one run gives many rows: the suite's is of all steps.
    """
    cases = [row for row in report.rows if row.verdict != "measured"]
    bad = sum(row.verdict != "pass" for row in cases)
    suite = ElementTree.Element(
        "testsuite", name=_printable(report.bundle), tests=str(len(cases)), failures=str(bad),
        errors="0", skipped="0", time=f"{sum(report.seconds.values()):.3f}",
        timestamp=when.strftime("%Y-%m-%dT%H:%M:%S"), hostname="localhost",
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report):
        ElementTree.SubElement(properties, "property", name=name, value=_printable(value))
    for row in cases:
        suite.append(_case(report, row))
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _properties(report: CheckReport) -> Iterator[tuple[str, str]]:
    for name in ("verdict", "model", "task", "target", "width", "engine", "engine_version",
                 "manifest_sha256"):  # fmt: skip
        yield name, str(getattr(report, name))
    for name in ("proven_on", "data", "samples", "seconds"):
        for key, value in getattr(report, name).items():
            yield f"{name}.{key}", str(value)
    if report.allowed:
        yield "allowed", ", ".join(report.allowed)


def _case(report: CheckReport, row: Row) -> ElementTree.Element:
    """One row; those of one metric are told apart by what was compared."""
    name = f"{row.metric} ({row.detail})" if row.limit == 0 and row.verdict == "pass" \
        and row.detail else row.metric  # fmt: skip
    case = ElementTree.Element(
        "testcase", classname=_printable(f"{report.bundle}.{row.step}"), name=_printable(name),
        time="0",
    )  # fmt: skip
    if row.verdict != "pass":
        between = f", interval {interval(row)}" if interval(row) else ""
        message = f"{row.verdict}: {valued(row)}{between}, limit {limited(row) or 'none'}"
        failure = ElementTree.SubElement(case, "failure", message=message, type=row.verdict)
        failure.text = _printable(f"{row.metric} {message}. {row.detail}")
    return case


def _printable(text: str) -> str:
    """XML 1.0 has no control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
