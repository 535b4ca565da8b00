"""Macro F1, the worst class and the calibration error, worked out by hand."""
from __future__ import annotations

import math

import numpy as np
import pytest

from edgecompile.metrics.by_class import calibration_error, f1_scores, measure, recalls

TRUTH = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
FOUND = np.array([0, 0, 0, 0, 1, 1, 1, 0, 0, 0])


def test_f1_of_each_class_and_none_of_one_that_nobody_names() -> None:
    scores = f1_scores(TRUTH, FOUND, 3)
    assert scores[:2] == pytest.approx([8 / 12, 4 / 8])
    assert math.isnan(scores[2])


def test_a_class_of_few_samples_is_not_the_worst() -> None:
    found = recalls(np.append(TRUTH, 2), np.append(FOUND, 0), 3)
    assert found[:2] == pytest.approx([0.8, 0.4])
    assert math.isnan(found[2])


def test_confidence_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    sure = np.array([[0.8, 0.2]] * 10)
    assert calibration_error(np.array([0] * 8 + [1] * 2), sure) == pytest.approx(0)
    assert calibration_error(np.array([0] * 3 + [1] * 7), sure) == pytest.approx(0.5)


def test_both_sides_are_measured() -> None:
    right, wrong = np.eye(2)[TRUTH], np.eye(2)[FOUND]
    values = {one.metric: one.value for one in measure(TRUTH, right, wrong, ("a", "b"))}
    assert values["macro_f1_source"] == 1.0
    assert values["macro_f1"] == pytest.approx((8 / 12 + 4 / 8) / 2)
    assert values["worst_class_recall"] == pytest.approx(0.4)
    assert values["calibration_error"] == pytest.approx(0.4)
