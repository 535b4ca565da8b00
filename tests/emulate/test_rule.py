"""What a level may differ by: docs/arm64.md, on answers made here."""
from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgecompile.checks.emulated import Subject, _choice_rows
from edgecompile.report import Row
from edgecompile.runtime.manifest import Manifest


def subject(**options: Any) -> Subject:
    """Of a bundle with quantized weights and those engine options."""
    data = {"tensors": [{}], "floats": [], "engine": {"name": "onnxruntime", "options": options}}
    info = Manifest(data, "", "", "", (), cast(Any, None), None, None, None, ())
    return Subject(Path(), info, cast(Any, None), (), lambda *_: None)


def rows(here: np.ndarray, there: np.ndarray) -> dict[str, Row]:
    found = _choice_rows(subject(accuracy_level=4), "arm64-a76", [here], [there])
    return {row.metric: row for row in found}


LOGITS = np.array([[0.0, 3.0, 1.0], [2.0, 1.9, 0.0]], np.float32)


def test_errors_of_two_engines_add_and_their_squares_take_four_times() -> None:
    assert subject().limit("kl_mean") == pytest.approx(4e-5)
    assert subject().limit("cosine_min") == pytest.approx(0.9996)
    assert subject().limit("relative_error") == pytest.approx(0.002)


def test_activations_in_int8_are_given_their_own_column() -> None:
    assert subject(accuracy_level=4).limit("cosine_min") == pytest.approx(0.992)
    assert subject(accuracy_level=4).tie > 20 * subject().tie


def test_equal_logits_pass() -> None:
    found = rows(LOGITS, LOGITS.copy())
    assert found["host_kl_mean"].value == 0
    assert found["host_choices_differing"].verdict == "pass"


def test_a_tie_may_be_broken_the_other_way_and_is_counted() -> None:
    there = LOGITS.copy()
    there[1] = [1.9, 2.0, 0.0]
    found = rows(LOGITS, there)
    assert found["host_choices_differing"].value == 0
    assert found["host_choices_tied"].value == 1
    assert found["host_kl_mean"].verdict == "pass"


def test_another_clear_choice_fails_with_its_margin() -> None:
    found = rows(LOGITS, LOGITS[:, ::-1])
    assert found["host_choices_differing"].verdict == "fail"
    assert "row 1 by 2.000 nats" in found["host_choices_differing"].detail
    assert found["host_kl_mean"].verdict == "fail"


def test_logits_that_are_no_numbers_fail() -> None:
    there = LOGITS.copy()
    there[0, 0] = np.nan
    assert rows(LOGITS, there)["host_kl_mean"].verdict == "fail"


def test_another_number_of_logits_fails() -> None:
    found = rows(LOGITS, LOGITS[:1])
    assert found["host_comparison"].verdict == "fail"
    assert "(1, 3), not (2, 3)" in found["host_comparison"].detail
