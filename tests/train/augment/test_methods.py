from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecompile.errors import BadInputError, UsageError
from edgecompile.train.augment import METHODS, Augment
from edgecompile.train.augment.characters import Characters, neighbours
from edgecompile.train.augment.grammar import sentence
from edgecompile.train.augment.kept import Keep, associations, p_value
from edgecompile.train.augment.spans import Spans
from edgecompile.train.augment.synonym_table import TABLE
from edgecompile.train.augment.synonyms import Synonyms, read_lines
from edgecompile.train.augment.syntax import RULES
from edgecompile.train.augment.templates import Templates
from edgecompile.train.augment.words import Words

NONE: frozenset[str] = frozenset()
TEXT = "If I leave the house, turn off the lights in the large kitchen, please."
ROWS = [("turn on the lamp in the hall", "on"), ("turn off the lamp in the hall", "off")] * 40


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rewritten(kind: str, text: str) -> str:
    """The text by one rule of syntax; as it is where the rule does not fit."""
    found = sentence(text)
    body = RULES[kind](found) if found else None
    return text if body is None or found is None else found.of(body)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("clauses", "If the light is on, turn it off.", "Turn it off if the light is on."),
        ("clauses", "turn off the heating when I leave", "when I leave, turn off the heating"),
        ("clauses", "Unless it's raining, open the window", "Open the window unless it's raining"),
        ("please", "Please open the blinds.", "Open the blinds, please."),
        ("particles", "turn on the hall light", "turn the hall light on"),
        ("particles", "switch off the TV at ten", "switch the TV off at ten"),
        ("voice", "She closed the door.", "The door was closed by her."),
        ("voice", "I locked the safe", "The safe was locked by me"),
        ("voice", "My brother sold the car.", "The car was sold by my brother."),
    ],
)
def test_a_rule_of_syntax_goes_there_and_back(kind: str, one: str, other: str) -> None:
    assert rewritten(kind, one) == other
    assert rewritten(kind, other) == one


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("clauses", "Tell me when the timer is done"),  # the clause is what is asked
        ("clauses", "I wonder if it rains"),
        ("clauses", "Play the song before this one"),  # no clause
        ("clauses", "When is dinner, my dear?"),
        ("clauses", "If it rains, close the window and wake me"),
        ("clauses", "If it rains, close the window. Then wake me"),
        ("clauses", "After you, Sir John"),
        ("please", "Could you please help me"),
        ("please", "Two beers, please"),
        ("particles", "Turn it on"),
        ("particles", "Turn on the TV and the radio"),
        ("particles", "turn on the light of the hall"),
        ("voice", "He painted the other day"),
        ("voice", "The parcel was delivered by Monday"),
        ("voice", "She closed the doors"),
        ("voice", "She closed the door slowly"),
        ("voice", "The window was closed by the door"),
    ],
)
def test_a_rule_leaves_what_is_not_certain(kind: str, text: str) -> None:
    assert rewritten(kind, text) == text


def test_a_command_takes_the_place_in_a_template() -> None:
    ask = Templates(1.0, commands=("could you {text}?",))
    assert ask("Turn on the lamp.", rng(), NONE) == "Could you turn on the lamp?"


@pytest.mark.parametrize(
    "text", ["Where is the lamp?", "lamps are nice", "Turn on the lamp. It is dark.", "Set theory"]
)
def test_what_is_no_single_command_goes_into_no_template_for_commands(text: str) -> None:
    assert Templates(1.0)(text, rng(), NONE) == text


def test_a_users_template_takes_any_text() -> None:
    quoted = Templates(1.0, templates=("he said: {text}",), commands=())
    assert quoted("lamps are nice", rng(), NONE) == "he said: lamps are nice"


def test_a_template_without_its_slot_is_refused() -> None:
    with pytest.raises(UsageError, match="once"):
        Templates(templates=("he said",))


def test_a_synonym_has_the_case_of_the_word_it_replaces() -> None:
    replace = Synonyms(1.0)
    assert replace("Buy it. BUY it.", rng(), NONE) == "Purchase it. PURCHASE it."


def test_a_synonym_fits_the_article_before_it() -> None:
    found = {Synonyms(1.0)("a huge dog", rng(seed), NONE) for seed in range(20)}
    assert found == {"a gigantic dog"}


def test_a_phrase_that_holds_a_kept_word_may_change_around_it() -> None:
    assert Synonyms(1.0)("turn on the oven", rng(), frozenset({"on"})) == "switch on the oven"
    assert Synonyms(1.0)("turn on the oven", rng(), frozenset({"turn"})) == "turn on the oven"


def test_no_synonym_is_a_kept_word_of_another_text() -> None:
    assert Synonyms(1.0)("buy milk", rng(), frozenset({"purchase"})) == "buy milk"


def test_our_table_says_each_phrase_once_and_never_itself() -> None:
    lines = [line.split("\t") for line in TABLE.splitlines()]
    assert len({line[0] for line in lines}) == len(lines)
    assert not [line for line in lines if line[0].casefold() in map(str.casefold, line[1:])]


def test_a_users_table_comes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text("# ours\nbuy\tget hold of\noven\tstove\n", "utf-8")
    own = Synonyms(1.0, file=str(tmp_path / "own.tsv"))
    assert own("buy an oven", rng(), NONE) == "get hold of an oven"


@pytest.mark.parametrize("line", ["alone", "\tother", "word\t", "word\t..."])
def test_a_line_without_alternatives_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(BadInputError, match=r"own.tsv:2"):
        read_lines(f"buy\tpurchase\n{line}", "own.tsv")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.tsv"):
        Synonyms(1.0, file=str(tmp_path / "none.tsv"))("buy", rng(), NONE)


def test_keys_beside_a_letter() -> None:
    assert neighbours()["g"] == "bfhtvy"


def test_a_mistake_never_makes_a_kept_word() -> None:
    found = {Characters(1.0)("blinks", rng(seed), frozenset({"blinds"})) for seed in range(300)}
    assert "blinds" not in found


def test_short_words_have_no_mistakes() -> None:
    assert Characters(1.0)("turn it on", rng(), NONE).endswith("it on")


def test_half_of_the_words_stay_when_words_are_dropped() -> None:
    drops = Words(1.0, kinds=("drop",))
    assert all(len(drops("a b c d e f", rng(seed), NONE).split()) == 3 for seed in range(20))


def test_a_span_is_a_quarter_of_the_words_at_most() -> None:
    found = [Spans(1.0)("a b c d e f g h", rng(seed), NONE).split() for seed in range(50)]
    assert min(map(len, found)) == 6


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"synonym": {}}, "did you mean 'synonyms'"),
        ({"case": {"probability": 1.5}}, "from 0 to 1"),
        ({"case": {"kinds": ["loewr"]}}, "lower"),
        ({"case": {"odds": 1}}, "odds"),
        ({"case": 3}, "case"),
        ({"kept": ["a"]}, "words"),
        ({"keep": {"level": 0}}, "level"),
    ],
)
def test_wrong_options_are_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Augment.from_table(table)


def test_true_and_false_switch_a_method() -> None:
    found = Augment.from_table({"case": True, "words": False, "spans": {"longest": 2}})
    assert found.methods == {"spans": Spans(longest=2), "case": METHODS["case"]()}


def test_order_process_and_hash_seed_have_no_say() -> None:
    code = (
        "from edgecompile.train.augment import *\n"
        "every = Augment.from_table({name: {'probability': 0.5} for name in METHODS} | {'seed': 3})"
        f"\nevery = every.fitted({ROWS!r})\n"
        f"print([every({TEXT!r}, index) for index in reversed(range(20))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    table = {name: {"probability": 0.5} for name in METHODS}
    every = Augment.from_table({**table, "seed": 3}).fitted(ROWS)
    found = [every(TEXT, index) for index in range(20)]
    assert result.stdout.strip() == str(found[::-1])
    assert len(set(found)) == 20


def test_switching_a_method_on_leaves_what_the_others_do() -> None:
    one = Augment.from_table({"case": {"probability": 1.0}})
    two = Augment.from_table({"case": {"probability": 1.0}, "spans": {"probability": 0.0}})
    assert [one(TEXT, index) for index in range(9)] == [two(TEXT, index) for index in range(9)]


def test_words_that_say_the_class_are_kept_and_others_are_not() -> None:
    kept = Keep(negations=False).of(ROWS)
    assert kept == {"on", "off"}


def test_without_labels_worth_the_name_nothing_is_kept() -> None:
    rows = [(text, str(number % 3)) for number, (text, _) in enumerate(ROWS)]
    assert Keep(negations=False).of(rows) == frozenset()


def test_chi_squared_is_that_of_the_books_example() -> None:
    """Manning et al., example 13.4: `export` and the class `poultry`."""
    counts = {("export", "poultry"): 49, ("other", "poultry"): 141, ("export", "else"): 27652}
    rows = [pair for pair, count in counts.items() for _ in range(count)]
    rows += [("other", "else")] * 774106
    chi2 = {word: one for word, one, _, _ in associations(rows)}
    assert chi2["export"] == pytest.approx(284, abs=0.5)


def test_p_values_are_those_of_the_tables() -> None:
    assert [round(p_value(chi2), 3) for chi2 in (3.841, 6.635, 10.828)] == [0.05, 0.01, 0.001]
