"""The command line: exit codes that scripts rely on, messages that say the way out."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgecompile.cli import main
from tests import tiny


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder: what the user has built here is nobody's business."""
    monkeypatch.chdir(tmp_path)


def run(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `edgecompile WORDS`."""
    monkeypatch.setattr(sys, "argv", ["edgecompile", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("build", "all-minilm-l6-v2", "--target", "cup"), 2, "did you mean 'cpu'"),
        (("build", "all-minilm-l6-v2"), 2, "--target"),
        (("build", "no-such-model", "--target", "cpu"), 2, "no folder, file, recipe"),
        (("build", "weights.bin", "--target", "cpu"), 2, "no folder, file, recipe"),
        (("build", "all-minilm-l6-v2", "--target", "cpu", "--set", "quantize.bist=4"), 2, "'bits'"),
        (("build", "all-minilm-l6-v2", "--target", "cpu", "--data", "none.txt"), 2, "file of text"),
        (("inspect", "nowhere"), 5, "manifest.json"),
        (("verify", "nowhere"), 5, "manifest.json"),
        (("summary", "nowhere"), 2, "no *.report"),
        (("cache", "prune", "--max-size", "many"), 2, "20GB"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_a_mistake_has_its_exit_code_and_a_way_out(
    words: tuple[str, ...],
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*words, monkeypatch=monkeypatch) == code
    assert text in capsys.readouterr().err


def test_no_mistake_shows_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("build", "no-such-model", "--target", "cpu", monkeypatch=monkeypatch)
    assert "Traceback" not in capsys.readouterr().err


def test_plan_as_json_gives_sizes_and_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", "all-minilm-l6-v2", "--target", "cpu", "--target", "gguf", "--format", "json")
    assert run(*words, monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in found["targets"]] == ["onnxruntime", "gguf"]
    assert all(row["passes"][0]["matched"] == 37 for row in found["targets"])


def test_init_writes_a_recipe_that_plan_understands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.bert(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    assert run("init", "my-model", monkeypatch=monkeypatch) == 0
    assert run("plan", "my-model", "--target", "cpu", monkeypatch=monkeypatch) == 0
    assert "13 tensors" in capsys.readouterr().out


def test_init_never_replaces_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.bert(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    codes = [run("init", "my-model", monkeypatch=monkeypatch) for _ in range(2)]
    assert codes == [0, 2]


@pytest.mark.parametrize("words", [("targets",), ("models",), ("cache", "list"), ("doctor",)])
def test_lists_can_be_read_by_machines(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--format", "json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) is not None


def test_a_built_bundle_can_be_run_inspected_verified_and_summarized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tiny.bert(tmp_path / "m"), tmp_path / "dist"
    # Random weights have no meaning to lose: only the way is tested here, not the verdict.
    run("build", str(model), "--target", "cpu", "-o", str(out), monkeypatch=monkeypatch)
    (bundle,) = [path for path in out.iterdir() if not path.name.endswith(".report")]
    for words in (("inspect", str(bundle)), ("verify", str(bundle)), ("summary", str(out))):
        assert run(*words, monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    assert run("run", str(bundle), "the quick fox", monkeypatch=monkeypatch) == 0
    assert len(json.loads(capsys.readouterr().out)["embedding"]) == 64
