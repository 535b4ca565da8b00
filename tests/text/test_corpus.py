from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations

import pytest

from edgecompile.text.corpus import GRAM, default_corpus, word_grams
from edgecompile.text.parts import Corpus, Document, digest, part_of, split


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return default_corpus()


def test_default_text_is_enough_for_a_check_and_a_calibration(corpus: Corpus) -> None:
    assert len(corpus.held_out) >= 256
    assert sum(len(d.text) for d in corpus.held_out) > 80_000  # some 16,000 tokens
    assert sum(len(d.text) for d in corpus.calibration) > 150_000


def test_no_paragraph_is_in_two_parts(corpus: Corpus) -> None:
    for one, other in combinations(corpus.parts.values(), 2):
        assert not {d.text for d in one} & {d.text for d in other}


def test_no_paragraph_shares_many_runs_of_words_with_another_part(corpus: Corpus) -> None:
    grams = {
        part: set().union(*(word_grams(d.text) for d in documents))
        for part, documents in corpus.parts.items()
    }
    for part, documents in corpus.parts.items():
        others = set().union(*(grams[name] for name in grams if name != part))
        for document in documents:
            own = word_grams(document.text)
            if len(own) >= GRAM:  # what was kept first may share with what was kept later
                assert len(own & others) <= 0.25 * len(own), document.text


def test_paragraphs_are_clean_prose(corpus: Corpus) -> None:
    for document in (d for part in corpus.parts.values() for d in part):
        text = document.text
        assert 200 <= len(text) <= 2000
        assert "\n" not in text
        assert ">>>" not in text
        assert "http" not in text
        assert text.isprintable()


def test_digests_are_the_same_in_another_process_with_another_hash_seed(corpus: Corpus) -> None:
    code = "from edgecompile.text.corpus import default_corpus; print(default_corpus().digests)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert result.stdout.strip() == str(corpus.digests)


def test_reading_docstrings_imports_none_of_the_libraries() -> None:
    code = (
        "import sys; from edgecompile.text.corpus import chosen_paragraphs; chosen_paragraphs();"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_a_key_decides_the_part_and_shares_hold() -> None:
    keys = [f"key {index}" for index in range(4000)]
    found = [part_of(key) for key in keys]
    assert found == [part_of(key) for key in keys]
    assert found.count("calibration") == pytest.approx(2000, rel=0.08)
    assert found.count("held_out") == pytest.approx(1400, rel=0.08)


def test_a_digest_sees_text_label_and_order() -> None:
    one, two = Document("a"), Document("b", "x")
    assert digest([one, two]) != digest([two, one])
    assert digest([Document("a", "b")]) != digest([Document("ab")])
    assert split("n", [("k", one)]).digests == split("other", [("k", one)]).digests
