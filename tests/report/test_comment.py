from __future__ import annotations

from edgecompile.report.comment import markdown
from tests.report.reports import COSINE, DIRTY, KL, OPEN, SAME, report


def test_the_first_line_is_the_verdict_with_a_sign() -> None:
    heads = [markdown(report(row)).splitlines()[0] for row in (COSINE, KL, OPEN)]
    assert heads == ["# ✅ m-cpu: pass", "# ❌ m-cpu: fail", "# ⚠️ m-cpu: unproven"]


def test_a_judged_row_shows_its_interval_beside_its_limit() -> None:
    line = "| quality | cosine_mean | 0.9990 | 0.9980 to 0.9995 | ≥ 0.99 | 256 | ✅ pass |"
    assert line in markdown(report(COSINE))


def test_what_failed_is_said_before_any_table() -> None:
    above, _, _ = markdown(report(COSINE, KL)).partition("\n|")
    assert "- ❌ **kl_mean** (fail): 0.50, limit ≤ 0.25, interval 0.40 to 0.60" in above


def test_all_rows_are_folded() -> None:
    _, folded, below = markdown(report(SAME, COSINE)).partition("<details>")
    assert folded
    assert below.count("| codes_differing |") == 1
    assert below.rstrip().endswith("</details>")


def test_a_blank_line_stands_before_every_table() -> None:
    lines = markdown(report()).splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("| step |")]
    assert [lines[n - 1] for n in heads] == ["", ""]


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    lines = [line for line in markdown(report()).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {8}


def test_names_are_no_markup_and_call_nobody() -> None:
    text = markdown(report(DIRTY))
    assert "</script><b>" not in text.replace("\\<", "")
    assert "@here" not in text
