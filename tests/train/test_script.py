"""A recipe whose own script writes its rows: one command trains it, none builds it untrained."""
from __future__ import annotations

from pathlib import Path

import pytest

from edgecompile import plan, recipe, sources
from edgecompile.errors import BadInputError, UsageError
from edgecompile.train.run import Request, train
from edgecompile.train.script import rows
from tests.train import small

SCRIPT = f"""
import json
from pathlib import Path

def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.jsonl", folder / "held-out.jsonl"
    for file, lines in zip(files, ({small.rows(40)!r}, {small.rows(10, 1)!r})):
        file.write_text("".join(json.dumps(line) + chr(10) for line in lines), encoding="utf-8")
    return files

def nothing(folder):
    return ()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """models/tiny with a recipe and its script, beside a tiny BERT."""
    small.bert(tmp_path / "tiny-bert")
    place = tmp_path / "models" / "tiny"
    place.mkdir(parents=True)
    (place / "mine.py").write_text(SCRIPT, encoding="utf-8")
    text = 'task = "classification"\n[source]\npath = "../../tiny-bert"\n'
    text += '[data]\nscript = "mine:write"\n[train]\nsteps = 2\nthreads = 1\n'
    (place / "recipe.toml").write_text(text, encoding="utf-8")
    return place


def test_one_command_writes_the_rows_and_trains(folder: Path, tmp_path: Path) -> None:
    request = Request(str(folder / "recipe.toml"), tmp_path / "out")
    [task] = train(request, lambda _: None, lambda *_: None).summary["tasks"]
    assert (task["training_rows"], task["held_out_rows"]) == (40, 10)
    assert (tmp_path / "out.train" / "data" / "held-out.jsonl").is_file()


def test_the_users_own_rows_come_first(folder: Path, tmp_path: Path) -> None:
    request = Request(str(folder / "recipe.toml"), tmp_path / "out", small.data_file(tmp_path, 30))
    train(request, lambda _: None, lambda *_: None)
    assert not (tmp_path / "out.train" / "data").exists()


def test_an_untrained_model_is_refused_with_the_command_that_trains_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="edgecompile train tiny -o build/tiny"):
        plan.plan(plan.Request("tiny", ("null",)))


def test_the_trained_folder_is_built_with_the_same_recipe(folder: Path, tmp_path: Path) -> None:
    file = folder / "recipe.toml"
    train(Request(str(file), tmp_path / "out"), lambda _: None, lambda *_: None)
    planned = plan.plan(plan.Request(str(tmp_path / "out"), ("null",), tmp_path, recipe=file))
    assert planned.model.task == "classification"


@pytest.mark.parametrize("name", ["docs-lm", "home-commands"])
def test_the_shelfs_recipes_name_scripts_that_are_there(name: str) -> None:
    found = recipe.read(recipe.names()[name])
    place, _, _ = found.data.script.partition(":")
    assert (found.folder / f"{place}.py").is_file()
    assert sources.resolve(name).untrained


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [("other:write", UsageError, "names no file"), ("mine", UsageError, "names no file"),
     ("mine:read", UsageError, "no function 'read'"), ("mine:nothing", BadInputError, "nothing")],
)  # fmt: skip
def test_a_script_that_cannot_be_used_says_why(
    folder: Path, tmp_path: Path, script: str, error: type[Exception], says: str
) -> None:
    setting = f"data.script={script}"
    with pytest.raises(error, match=says):
        rows(recipe.read(folder / "recipe.toml", settings=[setting]), tmp_path)
