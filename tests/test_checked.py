"""A check that passed is kept: by its bytes, its machine, its text and our sources."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgecompile import checked
from edgecompile.build import BuildResult, build
from edgecompile.plan import Request, plan
from edgecompile.report.files import folder_of
from tests import tiny


def built(model: Path, out: Path, *settings: str) -> BuildResult:
    settings = ("quantize.method=rtn", *settings)
    request = Request(str(model), ("cpu",), out, settings=settings)
    return next(build(plan(request), lambda *_: None))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checked")


@pytest.fixture(scope="module")
def pair(place: Path) -> list[BuildResult]:
    """The same build twice, into two folders."""
    model = tiny.bert(place / "tiny-bert", seed=77)
    return [built(model, place / name) for name in ("first", "second")]


def test_the_second_build_of_the_same_bytes_reuses_the_check(pair: list[BuildResult]) -> None:
    assert ["check" in result.reused for result in pair] == [False, True]


def test_its_report_says_so(pair: list[BuildResult]) -> None:
    assert checked.NOTE in pair[1].report.notes


def test_its_figures_are_those_of_the_first(pair: list[BuildResult]) -> None:
    assert pair[1].report.rows == pair[0].report.rows


def test_a_stricter_limit_checks_again(pair: list[BuildResult], place: Path) -> None:
    again = built(place / "tiny-bert", place / "third", "check.limits.cosine_mean=0.9999999")
    assert ("check" in again.reused, again.passed) == (False, False)


def test_a_check_that_failed_is_not_kept(pair: list[BuildResult], place: Path) -> None:
    results = [
        built(place / "tiny-bert", place / name, "check.limits.cosine_mean=0.9999998")
        for name in ("fourth", "fifth")
    ]
    assert [result.reused.count("check") for result in results] == [0, 0]


def test_a_value_that_was_no_number_is_none_again(pair: list[BuildResult], tmp_path: Path) -> None:
    text = (folder_of(pair[0].bundle) / checked.REPORT).read_text()
    value = next(row for row in pair[0].report.rows if row.metric == "cosine_mean").value
    (tmp_path / checked.REPORT).write_text(text.replace(repr(value), "null"))
    found = checked.read(tmp_path / checked.REPORT)
    assert math.isnan(found.value("cosine_mean") or 0.0)
