"""Word error rates, worked out by hand."""
from __future__ import annotations

import math

import pytest

from edgecompile.metrics import wer


@pytest.mark.parametrize(
    ("said", "found", "wrong"),
    [
        ("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c", 1), ("a b c", "a b x c", 1),
        ("a b c", "", 3), ("", "a b", 2), ("a b c d", "b c d e", 2), 
        ("k i t t e n", "s i t t i n g", 3),
    ],
)  # fmt: skip
def test_errors_are_the_fewest_changes_of_words(said: str, found: str, wrong: int) -> None:
    assert wer.errors(said.split(), found.split()) == wrong


def test_the_rate_is_of_all_words_together() -> None:
    found = wer.measure("word_error_rate", ["a b c", "d"], ["a b x", "e"])
    assert (found.value, found.samples, found.better) == (0.5, 4, "lower")


def test_case_and_punctuation_are_no_errors() -> None:
    found = wer.words("Turn ON, the  Licht - naïve Straße!")
    assert " ".join(found) == "turn on the licht naïve strasse"


def test_nothing_said_has_no_rate() -> None:
    assert math.isnan(wer.measure("word_error_rate", [""], ["a"]).value)
