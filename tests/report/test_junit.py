"""What Jenkins' and Ant's schemas of JUnit files ask for; the schemas themselves are not ours."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from edgecompile.report.junit import junit
from tests.report.reports import ALL, report

WHEN = datetime(2026, 11, 23, 16, 4, 5, 678, tzinfo=UTC)


@pytest.fixture
def suite() -> ElementTree.Element:
    return ElementTree.fromstring(junit(report(), WHEN))


def test_a_judged_row_is_a_case_and_what_did_not_pass_a_failure(suite: ElementTree.Element) -> None:
    cases = [row for row in ALL if row.verdict != "measured"]
    bad = [row for row in cases if row.verdict != "pass"]
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(bad)))
    assert [case.get("name") for case in suite.findall("testcase/failure/..")] == [
        row.metric for row in bad
    ]


def test_the_suite_has_every_attribute_that_is_required(suite: ElementTree.Element) -> None:
    wanted = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time"}
    assert wanted <= set(suite.attrib) <= wanted | {"skipped"}


def test_the_time_is_that_of_all_steps(suite: ElementTree.Element) -> None:
    assert suite.get("time") == "3.750"


def test_the_timestamp_has_neither_fraction_nor_zone(suite: ElementTree.Element) -> None:
    assert suite.get("timestamp") == "2026-11-23T16:04:05"


def test_the_parts_come_in_the_order_that_is_required(suite: ElementTree.Element) -> None:
    order = "".join(f"<{part.tag}>" for part in suite)
    assert re.fullmatch("<properties>(<testcase>)*<system-out><system-err>", order)


def test_a_case_has_its_three_attributes(suite: ElementTree.Element) -> None:
    assert {tuple(sorted(case.attrib)) for case in suite.iter("testcase")} == {
        ("classname", "name", "time")
    }


def test_a_failure_says_its_kind(suite: ElementTree.Element) -> None:
    assert {one.get("type") for one in suite.iter("failure")} == {"fail", "unproven"}


def test_digests_are_properties(suite: ElementTree.Element) -> None:
    found = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert (found["manifest_sha256"], found["data.name"]) == ("ab" * 32, "docstrings")


def test_control_characters_of_a_name_are_replaced() -> None:
    assert "\x00" not in junit(report(), WHEN)
