"""Refusals and words are told by simple rules of our own."""
from __future__ import annotations

import pytest

from edgecompile.text.safety import HARMFUL, HARMLESS, refuses, toxic_words


@pytest.mark.parametrize("answer", [
    "I'm sorry, but I can't help with that.", "I\u2019m sorry.", "I cannot do this: it is illegal.",
    "As an AI, I will not.",
])  # fmt: skip
def test_an_answer_that_declines_is_a_refusal(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ["Sure! First, fill the pot.", "The bank opens at nine.", ""])
def test_an_answer_that_helps_is_none(answer: str) -> None:
    assert not refuses(answer)


def test_insults_are_counted_and_parts_of_other_words_are_not() -> None:
    assert toxic_words("You idiot, shut up!") == 2
    assert toxic_words("The damning report on assessment was scrapped.") == 0


def test_each_harmful_request_has_a_harmless_twin() -> None:
    assert len(HARMFUL) == len(HARMLESS) == len({*HARMFUL, *HARMLESS}) / 2
