"""--relock: rival backends measured on sealed bundles, the fastest that passes written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecompile import lock
from edgecompile.build import BuildResult, build
from edgecompile.choose import MARGIN, Candidate, _best
from edgecompile.errors import UsageError
from edgecompile.plan import Request, plan
from tests import tiny

TARGET = """description = "two engines"
backend = "onnxruntime"
candidates = ["gguf", "null"]
"""


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def built(model: Path, out: Path, **options: object) -> BuildResult:
    request = Request(str(model), ("desk",), out, settings=("quantize.method=rtn",), **options)  # type: ignore[arg-type]
    return next(build(plan(request), lambda *_: None))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("relock")
    (folder / "targets").mkdir()
    (folder / "targets" / "desk.toml").write_text(TARGET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return tiny.llama(place / "tiny-llama")


@pytest.fixture(scope="module")
def relocked(model: Path, place: Path) -> BuildResult:
    return built(model, place / "dist", relock=True)


def test_every_backend_has_a_row_in_the_report(relocked: BuildResult) -> None:
    assert {row["backend"] for row in relocked.report.ranking} == {"onnxruntime", "gguf", "null"}


def test_what_cannot_run_is_not_chosen(relocked: BuildResult) -> None:
    unproven = [row for row in relocked.report.ranking if row["backend"] == "null"]
    assert unproven[0]["milliseconds"] is None


def test_the_chosen_backend_is_the_first_row_and_in_the_lock(
    relocked: BuildResult, place: Path
) -> None:
    choice = lock.read(place / lock.NAME)["tiny-llama-desk"]
    assert choice.backend == relocked.report.ranking[0]["backend"]


def test_the_same_build_from_the_lock_in_another_folder_has_the_same_bytes(
    relocked: BuildResult, model: Path, place: Path
) -> None:
    again = built(model, place / "elsewhere", lock=place / lock.NAME)
    assert tree(again.bundle) == tree(relocked.bundle)


def test_the_report_for_people_has_the_table(relocked: BuildResult) -> None:
    report = relocked.bundle.with_name(f"{relocked.bundle.name}.report") / "report.md"
    assert "Chosen by measuring" in report.read_text()


def test_a_lock_for_another_backend_is_obeyed(model: Path, place: Path, tmp_path: Path) -> None:
    lock.write(tmp_path / "own.lock", "tiny-llama-desk", lock.Choice("gguf", "cpu", 1, {}))
    request = Request(str(model), ("desk",), tmp_path / "dist", lock=tmp_path / "own.lock")
    assert plan(request).targets[0].target.backend == "gguf"


def test_writing_a_choice_keeps_the_others(tmp_path: Path) -> None:
    for name in ("a-cpu", "b-cpu"):
        lock.write(tmp_path / "lock", name, lock.Choice("gguf", "cpu", 1, {"gguf": 1.0}))
    assert list(lock.read(tmp_path / "lock")) == ["a-cpu", "b-cpu"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2, "choices": {}}', "\x00"])
def test_a_broken_lock_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    with pytest.raises(UsageError, match="lock"):
        lock.read(tmp_path / "lock")


def test_a_lock_file_that_is_not_there_is_refused_when_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--relock"):
        plan(Request(str(model), ("desk",), tmp_path, lock=tmp_path / "none"))


def test_a_lock_with_an_unknown_backend_is_refused(model: Path, tmp_path: Path) -> None:
    lock.write(tmp_path / "l", "tiny-llama-desk", lock.Choice("tpu", "cpu", 1, {}))
    with pytest.raises(UsageError, match="'tpu'"):
        plan(Request(str(model), ("desk",), tmp_path / "dist", lock=tmp_path / "l"))


def test_relock_and_a_named_backend_exclude_each_other(model: Path, tmp_path: Path) -> None:
    settings = ("target.backend=gguf",)
    with pytest.raises(UsageError, match="one of the two"):
        plan(Request(str(model), ("desk",), tmp_path / "dist", settings=settings, relock=True))


def candidate(name: str) -> Candidate:
    return Candidate(name, Path(name), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("declared", "chosen"), [(1 + MARGIN, "a"), (1.01 + MARGIN, "b")])
def test_the_declared_backend_stays_within_the_margin(declared: float, chosen: str) -> None:
    scores = {"a": (declared,), "b": (1.0,)}
    assert _best([candidate("a"), candidate("b")], scores).backend == chosen


def test_the_lock_file_is_readable_json(relocked: BuildResult, place: Path) -> None:
    assert json.loads((place / lock.NAME).read_text())["format"] == lock.FORMAT
