"""What holds for every method and any text that hypothesis can think of."""
from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.train.augment import METHODS, Augment
from edgecompile.train.augment.pieces import folded, keeps_all, split, words

WORDS = (
    "turn", "on", "the", "kitchen", "lights", "please", "if", "I", "leave,", "Don't", "stop.",
    "caf\u00e9", "cafe\u0301", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f", "3.5",
    "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627",
    "\u7167\u660e\u3092\u6d88\u3057\u3066",
    "\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f", "\u0e40\u0e1b\u0e34\u0e14\u0e44\u0e1f", "?",
)  # fmt: skip
sentences = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
texts = st.one_of(st.text(max_size=60), sentences)
seeds = st.integers(0, 2**32)
KEPT = frozenset(
    map(folded, ("lights", "kitchen", "Don't", "caf\u00e9", "\u05e9\u05dc\u05d5\u05dd"))
)
ALL = dict.fromkeys(METHODS, True)


def always(name: str) -> Any:
    return METHODS[name](probability=1.0)


def run(method: Any, text: str, seed: int, kept: frozenset[str] = KEPT) -> str:
    found: str = method(text, np.random.default_rng(seed), kept)
    return found


def clusters(text: str) -> list[str]:
    return regex.findall(r"\X", text)  # type: ignore[no-any-return]


@given(texts)
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


@pytest.mark.parametrize("name", METHODS)
@given(text=texts, seed=seeds)
def test_the_same_seed_gives_the_same_text(name: str, text: str, seed: int) -> None:
    assert run(always(name), text, seed) == run(always(name), text, seed)


@pytest.mark.parametrize("name", METHODS)
@given(text=texts, seed=seeds)
def test_probability_0_changes_nothing(name: str, text: str, seed: int) -> None:
    assert run(METHODS[name](probability=0.0), text, seed) == text


@pytest.mark.parametrize("name", METHODS)
@given(text=texts, seed=seeds)
def test_kept_words_stay_as_they_are_spelled_and_none_comes_to_them(
    name: str, text: str, seed: int
) -> None:
    assert keeps_all(text, run(always(name), text, seed), KEPT)


@pytest.mark.parametrize("name", METHODS)
@given(text=texts, seed=seeds)
def test_a_text_never_becomes_empty(name: str, text: str, seed: int) -> None:
    assert bool(run(always(name), text, seed).strip()) == bool(text.strip())


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_text_stays_empty(name: str) -> None:
    assert run(always(name), "", 0) == ""


@pytest.mark.parametrize("name", METHODS)
@given(text=texts, seed=seeds)
def test_a_text_grows_by_some_words_at_most(name: str, text: str, seed: int) -> None:
    found = run(always(name), text, seed)
    assert len(words(found)) <= 3 * len(words(text)) + 6
    assert len(found) <= 4 * len(text) + 40


@pytest.mark.parametrize("name", ["characters", "words", "spans", "punctuation"])
@given(text=texts, seed=seeds)
def test_no_mark_loses_its_letter_and_no_emoji_its_parts(name: str, text: str, seed: int) -> None:
    marked = {one for one in clusters(text) if len(one) > 1 and not one.isspace()}
    found = run(always(name), text, seed)
    strange = {one for one in clusters(found) if len(one) > 1 and not one.isspace()} - marked
    assert not strange


@pytest.mark.parametrize(
    "text",
    ["\u7167\u660e\u3092\u6d88\u3057\u3066\u304f\u3060\u3055\u3044", "\ubd88\uc744 \ucf1c\uc918",
     "\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f", "\u0e40\u0e1b\u0e34\u0e14\u0e44\u0e1f"],
)  # fmt: skip
@given(seed=seeds)
def test_scripts_that_are_no_alphabets_have_no_mistakes_of_typing(text: str, seed: int) -> None:
    assert run(always("characters"), text, seed) == text


@pytest.mark.parametrize(
    "text",
    ["\u05e9\u05dc\u05d5\u05de\u05d5\u05ea", "\u0432\u043a\u043b\u044e\u0447\u0438"],
)
def test_other_alphabets_have_mistakes_too(text: str) -> None:
    found = {run(always("characters"), text, seed) for seed in range(20)}
    assert len(found - {text}) > 5


@given(text=texts, seed=seeds)
def test_case_alone_changes_only_case(text: str, seed: int) -> None:
    found = run(always("case"), text, seed)
    plain = unicodedata.normalize("NFC", text)
    if plain.isascii():
        assert found.casefold() == text.casefold()
    assert len(found) == len(text)


@given(text=texts, seed=seeds)
def test_punctuation_leaves_the_words(text: str, seed: int) -> None:
    assert words(run(always("punctuation"), text, seed)) == words(text)


@given(text=texts, index=seeds)
def test_nothing_is_on_by_default(text: str, index: int) -> None:
    assert Augment()(text, index) == text


@settings(max_examples=50)
@given(text=texts, seed=seeds, index=seeds)
def test_all_methods_after_each_other_keep_the_words_to_keep(
    text: str, seed: int, index: int
) -> None:
    every = Augment.from_table({**ALL, "seed": seed, "keep": {"words": sorted(KEPT)}})
    assert keeps_all(text, every(text, index), KEPT)
