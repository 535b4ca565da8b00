"""Entities by the strict rule of IOB2, and their F1."""
from __future__ import annotations

import math

import pytest

from edgecompile.metrics.f1 import entities, f1, measure


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O O", []),
        ("B-PER I-PER O", [(0, 2, "PER")]),
        ("B-PER B-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("I-PER I-PER O", []),  # never begun
        ("B-PER I-LOC I-LOC", [(0, 1, "PER")]),  # another type ends it and begins nothing
        ("B-PER O I-PER", [(0, 1, "PER")]),
        ("O B-LOC I-LOC I-LOC", [(1, 4, "LOC")]),
    ],
)
def test_an_entity_begins_with_b_and_only_its_own_i_continues_it(
    tags: str, found: list[tuple[int, int, str]]
) -> None:
    assert list(entities(tags.split())) == found


def test_a_hit_has_the_same_words_and_type() -> None:
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O"]]
    assert f1(truth, truth) == 1.0
    assert f1(truth, found) == pytest.approx(2 * 1 / 6)  # precision and recall are both 1 / 3


def test_nothing_right_is_zero_and_no_entities_are_no_number() -> None:
    assert f1([["B-PER"]], [["O"]]) == 0.0
    assert math.isnan(f1([["O"]], [["I-PER"]]))


def test_the_ratio_is_to_the_sources_own_f1() -> None:
    truth = [["B-PER"], ["B-PER"], ["B-LOC"], ["O"]]
    source = [["B-PER"], ["B-PER"], ["O"], ["O"]]  # 4 / 5
    found = [["B-PER"], ["O"], ["O"], ["O"]]  # 2 / 4
    ratio, one, other = measure(truth, source, found)
    assert (one.value, other.value) == pytest.approx((0.5, 0.8))
    assert (ratio.metric, ratio.value, ratio.samples) == ("f1_ratio", pytest.approx(0.625), 3)
