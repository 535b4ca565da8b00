from __future__ import annotations

import unicodedata

from edgecompile.text.hard_strings import hard_strings


def test_there_are_at_least_320_and_each_is_there_once() -> None:
    strings = hard_strings()
    assert len(strings) == len(set(strings)) >= 320


def test_every_kind_that_tripped_a_tokenizer_is_there() -> None:
    strings = hard_strings()
    assert "" in strings
    assert "[CLS]" in strings
    assert "<|im_start|>" in strings
    assert "</s>" in strings
    assert any("\u200d" in s for s in strings)  # joined emoji
    assert any(len(word) > 100 for s in strings for word in s.split())
    assert any(s != unicodedata.normalize("NFC", s) for s in strings)
    assert any(unicodedata.category(c) == "Co" for s in strings for c in s)
    assert any(unicodedata.category(c) == "Cc" for s in strings for c in s)


def test_every_string_can_be_sent_as_utf_8() -> None:
    for string in hard_strings():
        assert string.encode("utf-8").decode("utf-8") == string
