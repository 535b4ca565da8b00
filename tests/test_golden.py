"""Golden inputs: made of the sealed bundle, asked again by anybody who opens it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecompile import bundle as bundles
from edgecompile import golden, sources
from edgecompile.build import build
from edgecompile.errors import LimitError, UnsupportedError
from edgecompile.plan import Request, plan
from edgecompile.runtime import load
from edgecompile.runtime._main import main as run_bundle
from edgecompile.runtime.golden import NAME, TEXTS, GoldenResult, divergence
from tests import tiny


def built(model: Path, out: Path, *targets: str) -> list[Path]:
    request = Request(str(model), targets, out)
    return [result.bundle for result in build(plan(request), lambda *_: None)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("golden")
    return built(tiny.llama(folder / "tiny-llama"), folder / "dist", "cpu", "gguf")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    return built(tiny.bert(folder / "tiny-bert"), folder / "dist", "cpu")[0]


def altered(bundle: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose golden file was changed and whose hashes agree."""
    shutil.copytree(bundle, to)
    table = json.loads((to / NAME).read_text())
    change(table)
    (to / NAME).write_text(json.dumps(table))
    manifest = json.loads((to / "manifest.json").read_text())
    bundles.write_manifest(to, manifest)
    return to


@pytest.mark.parametrize("index", [0, 1])
def test_each_decoder_passes_its_own_self_test(llama: list[Path], index: int) -> None:
    with load(llama[index]) as session:
        assert all(result.passed for result in session.self_test())


def test_an_encoder_passes_its_own_self_test(bert: Path) -> None:
    with load(bert) as session:
        assert [result.text for result in session.self_test() if result.passed] == list(TEXTS)


def test_plan_counts_at_least_the_bytes_of_a_golden_file(llama: list[Path], bert: Path) -> None:
    for bundle in (*llama, bert):
        folder = bundle.parent.parent / bundle.name.rpartition("-")[0]
        model = sources.load(sources.resolve(str(folder)), lambda *_: None)
        size = (bundle / NAME).stat().st_size
        assert size <= golden.most_bytes(model) <= 2 * size


def test_a_wrong_vector_fails(bert: Path, tmp_path: Path) -> None:
    def negate(table: dict[str, Any]) -> None:
        table["cases"][1]["values"] = [-value for value in table["cases"][1]["values"]]

    with load(altered(bert, tmp_path / "b", negate)) as session:
        assert [result.passed for result in session.self_test()] == [True, False, True]


def test_wrong_token_ids_fail(bert: Path, tmp_path: Path) -> None:
    def shift(table: dict[str, Any]) -> None:
        table["cases"][0]["ids"] = table["cases"][0]["ids"][::-1]

    with load(altered(bert, tmp_path / "b", shift)) as session:
        assert session.self_test()[0].fault == "the token ids differ"


def test_a_wrong_greedy_token_fails_where_it_was_clear(llama: list[Path], tmp_path: Path) -> None:
    def other(table: dict[str, Any]) -> None:
        step = table["cases"][0]["steps"][0]
        step["token"], step["clear"] = step["likeliest"][-1], True

    with load(altered(llama[0], tmp_path / "b", other)) as session:
        assert "greedy token 0" in session.self_test()[0].fault


def test_the_command_says_which_answer_differs_and_exits_6(
    bert: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def negate(table: dict[str, Any]) -> None:
        table["cases"][0]["values"] = [-value for value in table["cases"][0]["values"]]

    code = run_bundle(altered(bert, tmp_path / "b", negate), ["--self-test"])
    assert (code, b"1 of 3" in capfdbinary.readouterr().err) == (LimitError.exit_code, True)


def test_the_command_of_a_whole_bundle_exits_0(bert: Path) -> None:
    assert run_bundle(bert, ["--self-test"]) == 0


def test_a_bundle_without_golden_inputs_says_so(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "b")
    (tmp_path / "b" / NAME).unlink()
    manifest = json.loads((bert / "manifest.json").read_text()) | {"golden": None}
    bundles.write_manifest(tmp_path / "b", manifest)
    with load(tmp_path / "b") as session, pytest.raises(UnsupportedError, match="no golden inputs"):
        session.self_test()


def test_a_divergence_that_is_no_number_is_no_pass() -> None:
    assert not GoldenResult("text", float("nan"), 1.0).passed


def test_equal_steps_do_not_diverge() -> None:
    step = {"likeliest": [3, 1], "log_probabilities": [-0.3, -1.6]}
    assert divergence(step, step) == pytest.approx(0, abs=1e-12)


def test_a_token_that_lost_its_place_diverges() -> None:
    expected = {"likeliest": [3, 1], "log_probabilities": [-0.1, -3.0]}
    found = {"likeliest": [7, 1], "log_probabilities": [-0.1, -3.0]}
    assert divergence(expected, found) > 1
