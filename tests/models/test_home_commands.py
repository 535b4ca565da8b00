"""The generator of home-commands: seeded, its parts apart, every intent in each."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgecompile.errors import UsageError
from edgecompile.text.files import read_documents
from edgecompile.train.augment.pieces import words
from tests.models.scripts import MODELS, opened

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    return opened("home-commands/commands.py")


@pytest.fixture(scope="module")
def folder(commands: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("commands")
    commands.main(["--out", str(place), "--rows", "2000", "--seed", "5"])
    return place


@pytest.fixture(scope="module")
def speaker(commands: ModuleType) -> Any:
    return commands.Speaker("train", None)


def rows(folder: Path, part: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def phrases(tables: Any, part: str) -> list[str]:
    """Every list of the part, wherever it is in the tables."""
    if isinstance(tables, list):
        return [one for table in tables if isinstance(table, dict) for one in phrases(table, part)]
    if not isinstance(tables, dict):
        return []
    found = [one for key, table in tables.items() if key != part for one in phrases(table, part)]
    return found + list(tables.get(part, []))


def test_the_same_seed_gives_the_same_bytes_in_another_process(
    folder: Path, tmp_path: Path
) -> None:
    script = str(MODELS / "home-commands" / "commands.py")
    command = [sys.executable, script, "--out", str(tmp_path), "--rows", "2000", "--seed", "5"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "9"})
    for part in PARTS:
        assert (tmp_path / f"{part}.jsonl").read_bytes() == (folder / f"{part}.jsonl").read_bytes()


def test_another_seed_says_other_things(commands: ModuleType, folder: Path, tmp_path: Path) -> None:
    commands.write(tmp_path, 2000, 6)
    assert rows(tmp_path, "test") != rows(folder, "test")


def test_no_text_is_there_twice(folder: Path) -> None:
    texts = [row["text"].lower() for part in PARTS for row in rows(folder, part)]
    assert len(set(texts)) == len(texts) == 2000


@pytest.mark.parametrize("table", ["phrasings", "frames"])
@pytest.mark.parametrize("pair", combinations(PARTS, 2))
def test_no_phrasing_is_in_two_parts(speaker: Any, table: str, pair: tuple[str, str]) -> None:
    tables = speaker.intents if table == "phrasings" else speaker.frames
    one, other = (
        {text for text in phrases(tables, part) if text != "{a}"} for part in pair
    )
    assert len(one) > 10
    assert not one & other


@pytest.mark.parametrize("part", PARTS)
def test_every_intent_is_in_every_part_as_often(speaker: Any, folder: Path, part: str) -> None:
    counts = Counter(row["label"] for row in rows(folder, part))
    assert sorted(counts) == speaker.labels
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_command_begins_with_a_verb_whose_forms_are_known(speaker: Any) -> None:
    first = {
        command.split()[0]
        for intent in speaker.intents.values()
        for part in PARTS
        for command in intent["commands"][part]
    }
    assert first <= set(speaker.words["verbs"])


def test_every_slot_is_filled(folder: Path) -> None:
    texts = [row["text"] for part in PARTS for row in rows(folder, part)]
    assert not [text for text in texts if re.search("[{}]", text)]


def test_opposites_and_states_are_intents(speaker: Any) -> None:
    opposites = speaker.words["opposites"]
    named = {*opposites, *opposites.values()}
    for thing in speaker.frames["things"]:
        named |= {intent for state, intent in thing.items() if state != "thing"}
    assert named <= set(speaker.intents)


def test_a_third_of_the_texts_speak_of_a_second_intent(speaker: Any, folder: Path) -> None:
    """By words that only turn something down, leave it to others, or tell of the past."""
    turned = {"not", "no", "don't", "instead", "never", "already", "rather", "forget", "thanks"}
    texts = [row["text"] for row in rows(folder, "train")]
    found = [text for text in texts if turned & set(words(text.lower()))]
    assert len(found) > len(texts) / 3


def test_the_files_are_data_for_a_build(folder: Path) -> None:
    documents = read_documents(folder / "test.jsonl")
    assert all(document.label for document in documents)


def test_more_texts_than_can_be_said_are_refused(
    commands: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ATTEMPTS", 1)  # the first text that was said already
    with pytest.raises(UsageError, match="fewer rows"):
        commands.write(tmp_path, 2000, 0)
