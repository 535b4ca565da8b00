from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from edgecompile.metrics import Measurement
from edgecompile.report import CheckReport, Row, exact, judged, unproven
from edgecompile.report.files import folder_of, write_reports


def report(*rows: Row) -> CheckReport:
    return CheckReport(
        "m-cpu", "ab" * 32, "m", "embedding", "cpu", "int8", "onnxruntime", "1.31.1", rows,
        {"cpu": "a CPU", "level": "x86-64-v3", "device": "real"}, {"name": "docstrings"}, {},
    )  # fmt: skip


GOOD = judged("quality", Measurement("cosine_mean", 0.999, "", "higher", 256), 0.99)
BAD = judged("quality", Measurement("kl_mean", math.nan, "nats", "lower", 10), 0.1)


def test_one_failing_row_fails_the_bundle_and_one_unproven_row_leaves_it_unproven() -> None:
    missing = unproven("quality", "accuracy_ratio", "no labels")
    assert (report(GOOD).verdict, report(GOOD).accepted) == ("pass", True)
    assert (report(GOOD, missing).verdict, report(GOOD, missing).accepted) == ("unproven", False)
    assert (report(GOOD, missing, BAD).verdict, report(GOOD, BAD).accepted) == ("fail", False)


def test_what_no_engine_here_can_run_is_accepted_by_name_unless_something_fails() -> None:
    missing = unproven("cost", "cost_step", "a file for CoreMLBackend")
    elsewhere = {"allowed": ("not-run",), "proven_on": {"cpu": "a CPU", "device": "not-run"}}
    assert replace(report(GOOD, missing), **elsewhere).accepted  # type: ignore[arg-type]
    assert not replace(report(GOOD, missing, BAD), **elsewhere).accepted  # type: ignore[arg-type]
    assert not replace(report(GOOD, missing), allowed=("not-run",)).accepted


def test_a_report_without_any_limit_proves_nothing() -> None:
    measured = judged("cost", Measurement("size", 3.0, "MB", "lower", 1))
    assert measured.verdict == "measured"
    assert report().verdict == report(measured).verdict == "unproven"


def test_nan_fails_even_without_a_limit() -> None:
    assert judged("cost", Measurement("latency", math.nan, "ms", "lower", 1)).verdict == "fail"


def test_an_exact_comparison_names_what_differs() -> None:
    row = exact("sealed", "codes_differing", [f"layer.{i}" for i in range(9)], 20)
    assert (row.verdict, row.value) == ("fail", 9.0)
    assert row.detail == "layer.0, layer.1, layer.2, layer.3, layer.4 and 4 more"
    assert exact("sealed", "codes_differing", [], 20).verdict == "pass"


def test_the_files_are_written_whole_and_replace_older_ones(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m-cpu")
    assert folder.name == "m-cpu.report"
    write_reports(report(GOOD), folder)
    write_reports(report(GOOD, BAD), folder)
    assert sorted(f.name for f in folder.iterdir()) == [
        "junit.xml", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    data = json.loads((folder / "report.json").read_text("utf-8"))
    assert (data["verdict"], data["rows"][1]["value"]) == ("fail", None)
    assert data["manifest_sha256"] == "ab" * 32
    assert [f.name for f in tmp_path.iterdir()] == ["m-cpu.report"]
