"""Metrics of the user's own: asked of each held-out sample, judged as all others, run by name only.
"""
from __future__ import annotations

import dataclasses
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import recipe
from edgecompile.build import BuildResult, build
from edgecompile.checks import own
from edgecompile.checks.own import OwnMetricError
from edgecompile.cli import main
from edgecompile.errors import UsageError
from edgecompile.metrics.own import OwnMetric, measure
from edgecompile.plan import Request, plan
from edgecompile.recheck import Recheck, recheck
from edgecompile.releases import baseline_file, regression, release
from edgecompile.report import CheckReport, Row
from edgecompile.report.files import folder_of
from edgecompile.runtime.manifest import read_manifest
from edgecompile.statistics.evidence import Mean, Share
from tests import tiny

METRICS = '''
import pathlib
import numpy as np

pathlib.Path(__file__).with_name("was_run").touch()

def cosine(sample):
    return float(sample.source @ sample.bundle)

def alike(sample):
    return cosine(sample) > 0.9

def other(sample):
    return cosine(sample) > 2

def not_always(sample):
    return np.nan if sample.number == 3 else 1.0

def changes_what_it_gets(sample):
    sample.source[:] = sample.bundle[:] = 0
    return [0.0, 1.0]

def breaks(sample):
    return 1 / (sample.number - 3)

def speaks(sample):
    return "0.5"

def leaves(sample):
    raise SystemExit(0)
'''
RECIPE = """
[check.metrics.own_cosine]
function = "mine.py:cosine"
direction = "higher"
limit = 0.99
unit = "of 1"

[check.metrics.alike]
function = "mine:alike"
direction = "higher"
limit = 0.9

[check.metrics.changed]
function = "mine.py:changes_what_it_gets"
direction = "lower"
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def request(place: Path, out: str, *settings: str, model: str = "tiny-bert") -> Request:
    return Request(
        str(place / model), ("cpu",), place / out, recipe=place / "recipe.toml",
        data=place / "short.txt", settings=("quantize.method=rtn", *settings),
    )  # fmt: skip


def row(report: CheckReport, metric: str) -> Row:
    return next(one for one in report.rows if one.metric == metric)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: model, text, recipe, and the file of metrics beside it."""
    folder = tmp_path_factory.mktemp("own")
    tiny.bert(folder / "tiny-bert", seed=5)
    order, words = random.Random(0), tiny.TEXT.split()
    texts = [" ".join(order.choices(words, k=6)) for _ in range(1000)]
    (folder / "short.txt").write_text("\n\n".join(texts))
    (folder / "mine.py").write_text(METRICS)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def built(place: Path) -> BuildResult:
    return next(build(plan(request(place, "dist")), quiet))


# measured and judged


def test_it_is_judged_by_its_interval(built: BuildResult) -> None:
    found = row(built.report, "own_cosine")
    assert (found.step, found.verdict, found.unit, found.limit) == ("quality", "pass", "of 1", 0.99)
    assert found.low is not None
    assert 0.99 <= found.low < found.value < (found.high or 0)


def test_it_agrees_with_the_check_s_own_figure(built: BuildResult) -> None:
    ours = built.report.value("cosine_mean")
    assert built.report.value("own_cosine") == pytest.approx(ours, abs=1e-6)


def test_a_share_has_exact_bounds(built: BuildResult) -> None:
    found = row(built.report, "alike")
    assert found.value == 1.0
    assert found.low is not None
    assert 1 - 8 / found.samples < found.low < 1 - 2.9 / found.samples


def test_a_metric_without_a_limit_is_measured(built: BuildResult) -> None:
    found = row(built.report, "changed")
    assert (found.verdict, found.value) == ("measured", 0.5)
    assert found.samples == 2 * row(built.report, "alike").samples


def test_what_it_changes_changes_nothing_else(built: BuildResult) -> None:
    assert built.passed, tiny.not_passed(built.report)


def test_the_report_names_the_function_in_every_form(built: BuildResult) -> None:
    folder = folder_of(built.bundle)
    for name in ("report.json", "report.md", "report.html"):
        text = (folder / name).read_text("utf-8")
        assert "own_cosine" in text, name
        assert "mine.py:cosine" in text, name
        assert "of 1" in text, name
    assert 'name="own_cosine"' in (folder / "junit.xml").read_text("utf-8")


def test_the_manifest_names_it_without_its_folder(built: BuildResult) -> None:
    assert read_manifest(built.bundle).data["metrics"] == {
        "own_cosine": "mine.py:cosine", "alike": "mine:alike",
        "changed": "mine.py:changes_what_it_gets",
    }  # fmt: skip


def table(metric: str, **keys: Any) -> list[str]:
    return [f"check.metrics.{metric}.{key}={value}" for key, value in keys.items()]


def test_too_few_that_agree_are_unproven(place: Path) -> None:
    settings = ["check.texts=40", *table("alike", limit=0.999)]
    result = next(build(plan(request(place, "few", *settings)), quiet))
    found = row(result.report, "alike")
    assert (found.verdict, found.value) == ("unproven", 1.0)
    assert found.samples > 100  # more was drawn, as for any other metric


def test_a_broken_limit_fails(place: Path) -> None:
    settings = table("alike", function="mine.py:other")
    result = next(build(plan(request(place, "broken", *settings)), quiet))
    assert row(result.report, "alike").verdict == "fail"
    assert not result.passed


def test_nan_fails_and_names_the_sample(place: Path) -> None:
    settings = table("alike", function="mine.py:not_always")
    result = next(build(plan(request(place, "nan", *settings)), quiet))
    found = row(result.report, "alike")
    assert found.verdict == "fail"
    assert "held-out sample 3" in found.detail


def test_a_check_with_one_is_never_taken_from_before(place: Path, built: BuildResult) -> None:
    again = next(build(plan(request(place, "again")), quiet))
    assert "check" not in again.reused


# what goes wrong is said


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("breaks", "mine.py:breaks (alike), held-out sample 3: ZeroDivisionError: division by zero "
                   "(mine.py, line 24)"),
        ("speaks", "it gave '0.5'; expected a number"),
        ("leaves", "held-out sample 0: SystemExit"),
    ],
)  # fmt: skip
def test_what_the_function_raises_is_the_user_s_error(
    place: Path, function: str, said: str
) -> None:
    settings = table("alike", function=f"mine.py:{function}")
    with pytest.raises(OwnMetricError) as error:
        next(build(plan(request(place, function, *settings)), quiet))
    assert said in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("metric", "keys", "said"),
    [
        ("alike", {"function": "mine.py:gone"}, "has no attribute 'gone'"),
        ("alike", {"function": "theirs.py:alike"}, "no such file"),
        ("alike", {"function": "no_such_package.metrics:alike"}, "No module named"),
        ("alike", {"function": "alike"}, "file.py:function"),
        ("alike", {"function": "mine.py:np"}, "is a module"),
        ("alike", {"limit": 1.5}, "limit = 1.5 is not below 1"),
        ("alike", {"limit": 1.0}, "samples never prove that nothing is lost"),
        ("alike", {"direction": "up"}, "'higher', 'lower'"),
        ("alike", {"limt": 1}, "did you mean 'limit'"),
        ("cosine_mean", {"function": "mine.py:alike", "direction": "higher"}, "another name"),
        ("kept_alike", {"function": "mine.py:alike", "direction": "higher"}, "no name of a metric"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_built(
    place: Path, metric: str, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=r"check\.metrics|direction|limt") as error:
        plan(request(place, "wrong", *table(metric, **keys)))
    assert said in str(error.value)


def test_the_command_shows_no_traceback(
    place: Path, built: BuildResult, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (place / "breaking.toml").write_text(RECIPE.replace("mine:alike", "mine:breaks"))
    words = ["check", str(built.bundle), "--source", str(place / "tiny-bert"), "--data",
             str(place / "short.txt"), "--recipe", str(place / "breaking.toml")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["edgecompile", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert "held-out sample 3" in told
    assert "Traceback" not in told


# a later check


def checked(place: Path, built: BuildResult, **more: Any) -> CheckReport:
    asked = Recheck(built.bundle, str(place / "tiny-bert"), place / "short.txt", **more)
    return recheck(asked, quiet)


def test_a_bundle_alone_runs_nothing_and_is_not_proven(place: Path, built: BuildResult) -> None:
    (place / "was_run").unlink(missing_ok=True)
    report = checked(place, built)
    assert not (place / "was_run").exists()
    assert row(report, "alike").verdict == "unproven"
    assert "give --recipe FILE" in row(report, "alike").detail
    assert report.verdict == "unproven"


def test_what_is_allowed_by_name_is_only_not_measured(place: Path, built: BuildResult) -> None:
    report = checked(place, built, allow=("own-metrics",))
    assert row(report, "alike").verdict == "measured"
    assert report.verdict == "pass", tiny.not_passed(report)


def test_the_recipe_measures_it_again(place: Path, built: BuildResult) -> None:
    report = checked(place, built, recipe=place / "recipe.toml")
    assert report.value("own_cosine") == built.report.value("own_cosine")
    assert report.verdict == "pass", tiny.not_passed(report)


def test_a_recorded_release_is_compared_sample_by_sample(
    place: Path, built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = release.record(built.report, built.bundle)
    old = release.measured(file, release.Request(), quiet)
    worse = table("own_cosine", function="mine.py:other")
    new = next(build(plan(request(place, "worse", *worse, "check.metrics.own_cosine.limit=-1")),
                     quiet))  # fmt: skip
    rows = release.lost(old.baseline, _of(new), release.Rule(), ())
    verdicts = {one.metric: one.verdict for one in rows}
    assert (verdicts["own_cosine_lost"], verdicts["alike_lost"]) != ("pass", "pass")
    same = release.lost(old.baseline, _of(built), release.Rule(), ())
    assert {one.verdict for one in same} <= {"pass", "measured"}


def _of(result: BuildResult) -> Any:
    from edgecompile.releases.baseline import of_report

    return of_report(result.report, read_manifest(result.bundle))


# what it is


def metric(**changes: Any) -> OwnMetric:
    plain = OwnMetric("mine", "m.py:f", "higher", None, 1.0, "", float)
    return dataclasses.replace(plain, **changes)


def test_numbers_of_one_sample_are_one_group() -> None:
    found = measure(metric(), [np.array([0.5, 0.25]), np.array([1.0])])
    assert isinstance(found.evidence, Mean)
    assert found.evidence.groups.tolist() == [0, 0, 1]


def test_zeros_and_ones_are_a_share() -> None:
    assert isinstance(measure(metric(), [np.ones(1)] * 5).evidence, Share)


def test_scores_that_are_all_alike_prove_no_more_than_their_number() -> None:
    found = measure(metric(ideal=100.0), [np.full(1, 100.0)] * 60)
    low, _ = found.evidence.bounds(0.05, 0.01) if found.evidence else (0.0, 0.0)
    assert low == pytest.approx(100 * 0.05 ** (1 / 60))


def test_a_baseline_keeps_what_loses_nothing(tmp_path: Path) -> None:
    from tests.test_baseline import OLD

    kept = dataclasses.replace(OLD.metrics[0], metric="mine", limit=90.0, ideal=100.0)
    old = dataclasses.replace(OLD, metrics=(kept, OLD.metrics[1]))
    baseline_file.write(old, tmp_path / "old.json")
    again = baseline_file.read(tmp_path / "old.json")
    assert [one.ideal for one in again.metrics] == [100.0, None]
    lost = next(one for one in regression.compare(again, again, regression.Rule())
                if one.metric == "mine_lost")  # fmt: skip
    assert lost.limit == pytest.approx(1.0)  # a tenth of ten


def test_a_name_that_a_stranger_s_bundle_gives_is_no_markup() -> None:
    found = own.recorded({"metrics": {"[bold]pass": "a.py:f\x1b[2J"}})
    assert found == {"own_metric": "a.py:f[2J"}


def test_infinity_is_no_value() -> None:
    assert np.isnan(measure(metric(), [np.array([np.inf]), np.ones(1)]).value)


def test_no_number_at_all_is_no_pass() -> None:
    assert np.isnan(measure(metric(), []).value)


def test_a_scale_of_its_own_says_what_loses_nothing(place: Path) -> None:
    settings = table("alike", limit=90, ideal=100)
    chosen = recipe.read(place / "recipe.toml", settings=settings)
    found = {one.name: one for one in own.of_recipe(chosen)}
    assert (found["alike"].limit, found["alike"].ideal) == (90, 100)


# what each task gives


KINDS = '''
import json, pathlib

FILE = pathlib.Path(__file__).with_name("kinds.jsonl")

def shape(value):
    if hasattr(value, "shape"):
        return [str(value.dtype), *value.shape]
    return [type(value).__name__] + ([shape(v) for v in value] if isinstance(value, list) else [])

def told(sample):
    row = {"source": shape(sample.source), "bundle": shape(sample.bundle), "text": sample.text,
           "label": sample.label, "names": sample.names, "file": str(sample.file or "")}
    with FILE.open("a") as file:
        file.write(json.dumps(row) + "\\n")
    return float(shape(sample.source) == shape(sample.bundle))
'''
ASK = '[check]\ntexts = 12\ntokens = 200\nanswers = 4\nanswer_tokens = 6\n' \
    '[check.metrics.told]\nfunction = "kinds:told"\ndirection = "higher"\n'  # fmt: skip


def kinds(folder: Path, model: str, **more: Any) -> list[dict[str, Any]]:
    """What the function was given in a build of that model."""
    (folder / "kinds.py").write_text(KINDS)
    (folder / "recipe.toml").write_text(ASK)
    asked = Request(model, ("cpu",), folder / "dist", recipe=folder / "recipe.toml",
                    settings=("quantize.method=rtn",), allow=("no-gain",), **more)  # fmt: skip
    result = next(build(plan(asked), quiet))
    assert np.isfinite(result.report.value("told") or np.nan)
    lines = (folder / "kinds.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    order, words = random.Random(0), tiny.TEXT.split()
    rows = [{"text": " ".join(order.choices(words, k=12)), "label": "and again"}
            for _ in range(300)]  # fmt: skip
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_a_decoder_gives_its_answers(tmp_path: Path, labelled: Path) -> None:
    found = kinds(tmp_path, str(tiny.llama(tmp_path / "tiny-llama")), data=labelled)
    assert found[0]["source"] == found[0]["bundle"] == ["str"]
    assert (found[0]["label"], len(found[0]["text"].split())) == ("and again", 12)


def test_an_encoder_gives_vectors(tmp_path: Path, labelled: Path) -> None:
    found = kinds(tmp_path, str(tiny.bert(tmp_path / "tiny-bert")), data=labelled)
    assert found[0]["source"] == found[0]["bundle"] == ["float32", 64]


@pytest.mark.slow
def test_an_encoder_decoder_gives_log_probabilities(tmp_path: Path, labelled: Path) -> None:
    found = kinds(tmp_path, str(tiny.t5(tmp_path / "tiny-t5")), data=labelled)
    assert found[0]["source"] == found[0]["bundle"]
    assert found[0]["source"][0] == "float64"


@pytest.mark.slow
def test_speech_gives_transcripts(tmp_path: Path) -> None:
    found = kinds(tmp_path, str(tiny.whisper(tmp_path / "tiny-whisper")))
    assert found[0]["source"] == found[0]["bundle"] == ["str"]


@pytest.mark.slow
def test_texts_and_pictures_give_vectors_of_both(tmp_path: Path) -> None:
    found = kinds(tmp_path, str(tiny.clip(tmp_path / "tiny-clip")))
    assert {bool(one["file"]) for one in found} == {True, False}
    assert {bool(one["text"]) for one in found if one["file"]} == {False}


@pytest.mark.slow
def test_pictures_give_probabilities_and_the_classes_names(tmp_path: Path) -> None:
    from tests.test_pictures import MODULE

    (tmp_path / "seen.py").write_text(MODULE)
    found = kinds(tmp_path, f"{tmp_path}/seen.py:build")
    assert found[0]["source"] == found[0]["bundle"] == ["float64", 3]
    assert found[0]["names"] == ["un", "deux", "trois"]
    assert found[0]["file"]


@pytest.mark.slow
def test_a_module_gives_its_outputs(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "import torch\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(64, 64), (torch.ones(2, 64),)\n"
    )
    found = kinds(tmp_path, f"{tmp_path}/plain.py:build")
    assert found[0]["source"] == found[0]["bundle"] == ["list", ["float32", 2, 64]]
