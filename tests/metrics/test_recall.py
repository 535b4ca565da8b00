"""Recall of a search: against the source's nearest, and against captions."""
from __future__ import annotations

import math

import numpy as np
import pytest

from edgecompile.metrics.recall import mean_recall, measure, of_captions, shared_nearest


def test_the_same_similarities_find_the_same() -> None:
    values = np.random.default_rng(0).normal(size=(40, 30))
    assert measure(values, values).value == 1.0


def test_a_query_counts_what_it_finds_again() -> None:
    source = [[9.0, 8, 7, 6, 5]]
    assert shared_nearest(source, [[9.0, 1, 7, 8, 5]], 2).tolist() == [0.5]


def test_chance_finds_ten_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 100, 100))
    assert measure(one, other).value == pytest.approx(0.1, abs=0.03)


def test_every_query_counts_in_both_directions() -> None:
    assert measure(np.eye(30), np.eye(30)).samples == 60
    assert measure(np.zeros((30, 20)), np.zeros((30, 20))).samples == 50


def test_nan_stays_nan() -> None:
    values = np.zeros((20, 20))
    values[3, 4] = math.nan
    assert math.isnan(measure(np.zeros((20, 20)), values).value)
    assert math.isnan(mean_recall(values, range(20)))


def test_captions_at_the_top_are_found() -> None:
    assert mean_recall(np.eye(12), range(12)) == 1.0


def test_a_caption_in_second_place_is_found_at_five_and_ten() -> None:
    values = np.eye(12) + np.roll(np.eye(12), 1, axis=0) * 2
    assert mean_recall(values, range(12)) == pytest.approx(2 / 3)


def test_one_of_a_pictures_captions_is_enough_for_it() -> None:
    values = [[0.1, 0.9, 0.2, 0.3], [0.3, 0.1, 0.2, 0.9]]  # pictures 0 and 1, two captions each
    by_picture = mean_recall(values, [0, 0, 1, 1])
    assert by_picture == pytest.approx((1 + 1 + 1 + 0.5 + 1 + 1) / 6)


def test_the_ratio_is_to_the_sources() -> None:
    worse = np.eye(12) + np.roll(np.eye(12), 1, axis=0) * 2
    ratio, found, source = of_captions(np.eye(12), worse, range(12))
    assert ratio.value == pytest.approx(2 / 3)
    assert (found.value, source.value) == (pytest.approx(2 / 3), 1.0)
    assert ratio.samples == 12
