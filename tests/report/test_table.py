"""Tables of a narrow terminal: everything is there, on more lines."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgecompile.report.table import summary
from tests.report.reports import report

NAME = "a-model-with-a-long-name-in-a-long-family-cpu"


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """The output folder of one build."""
    place = tmp_path / f"{NAME}.report"
    place.mkdir()
    found = dataclasses.replace(report(), bundle=NAME)
    (place / "report.json").write_text(json.dumps(found.to_json()), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_summary_cuts_nothing_at_any_width(dist: Path, width: int) -> None:
    told = io.StringIO()
    summary(dist, Console(file=told, width=width))
    cells = "".join(line.split("  ")[0].strip() for line in told.getvalue().splitlines())
    assert cells.endswith(NAME)


def test_a_size_stays_on_one_line(dist: Path) -> None:
    told = io.StringIO()
    summary(dist, Console(file=told, width=60))
    assert "24.9 MB" in told.getvalue()
