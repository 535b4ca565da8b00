"""`edgecompile train` from a shell: exit codes, output, quiet where nobody looks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgecompile.cli import main
from tests.train import small

FAST = ("--set", "train.steps=4", "--set", "train.batch=8", "--set", "train.threads=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.bert(tmp_path_factory.mktemp("source") / "tiny-bert")


def run(*words: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `edgecompile WORDS`."""
    monkeypatch.setattr(sys, "argv", ["edgecompile", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_says_what_it_learned_and_shows_no_bar_to_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small.data_file(tmp_path)
    words = ("train", model, "--data", data, "-o", tmp_path / "out", *FAST)
    assert run(*words, monkeypatch=monkeypatch) == 0
    told = capsys.readouterr()
    assert "4 steps; held out: accuracy" in told.out
    assert told.err == ""


def test_the_report_can_be_had_as_json(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small.data_file(tmp_path)
    words = ("train", model, "--data", data, "-o", tmp_path / "out", *FAST, "--format", "json")
    assert run(*words, monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"][0]["labels"] == list(small.LABELS)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--set", "train.precision=fp8"), 3, "compute capability"),
        (("--set", "train.lrr=1"), 2, "did you mean 'lr'"),
        (("--set", "train.augment.synonims=true"), 3, "synonims"),
        (("--set", "train.lora.rnk=4"), 2, "did you mean 'rank'"),
        (("--set", "train.lora.rank=4", "--set", "train.parallel=tensor"), 3, "parallel=tensor"),
        (("--set", "train.length=9999"), 2, "at most 128"),
        (("--task", "embedding"), 5, "train.pair=KEY"),
        (("--held-out", "nowhere.jsonl"), 2, "no such file"),
    ],
)
def test_a_mistake_has_its_exit_code_and_a_way_out(
    words: tuple[str, ...], code: int, text: str, model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = small.data_file(tmp_path)
    words = ("train", str(model), "--data", str(data), "-o", str(tmp_path / "out"), *FAST, *words)
    assert run(*words, monkeypatch=monkeypatch) == code
    assert text in capsys.readouterr().err


def test_an_unfinished_run_names_both_ways_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.train" / "step-000000002").mkdir(parents=True)
    (tmp_path / "out.train" / "step-000000002" / "state.json").write_text("{}")
    words = ("train", model, "--data", small.data_file(tmp_path), "-o", tmp_path / "out")
    assert run(*words, monkeypatch=monkeypatch) == 2
    assert "add --resume to go on with it, or --overwrite" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused_by_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out.train" / "step-000000002"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"fingerp')
    data = small.data_file(tmp_path)
    words = ("train", model, "--data", data, "-o", tmp_path / "out", *FAST, "--resume")
    assert run(*words, monkeypatch=monkeypatch) == 5
    assert "step-000000002" in capsys.readouterr().err
