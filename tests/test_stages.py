"""Where a metric moved: stages of real builds that prune, distill, give windows, teach codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompile import build as builder
from edgecompile import cache, sources
from edgecompile.build import BuildResult
from edgecompile.checks.earlier import left_out
from edgecompile.errors import BadInputError
from edgecompile.model import Reshaped
from edgecompile.plan import Request, plan
from edgecompile.recheck import Recheck, recheck
from edgecompile.report import CheckReport
from tests import tiny
from tests.faults import twins

SHIPPED = ["quantized", "graph", "runtime"]
QUICK = ("quantize.bits=8", "quantize.method=rtn", "check.texts=128", "check.tokens=512")
TAUGHT = (*QUICK, "distill.texts=64", "distill.length=24", "distill.train.threads=2")
CODES = (
    "quantize.bits=4", "quantize.method=rtn", "check.tokens=512", "distill_codes.texts=8",
    "distill_codes.length=24", "distill_codes.train.batch=4", "distill_codes.train.threads=1",
)  # fmt: skip


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def built(model: Path, out: Path, *settings: str, data: Path | None = None) -> BuildResult:
    request = Request(
        str(model), ("cpu",), out=out, settings=settings, allow=("no-gain",), data=data
    )
    return next(builder.build(plan(request), quiet))


def stages(report: CheckReport, metric: str) -> list[str]:
    return [one.stage for one in report.stages if one.metric == metric]


def values(report: CheckReport, metric: str) -> Mapping[str, float]:
    return {one.stage: one.value for one in report.stages if one.metric == metric}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twins.classifier(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"text": d.text, "label": twins.label_of(d.text)} for d in twins.classified(900, 11)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def cut_too_far(
    classifier: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> BuildResult:
    """A classifier of which pruning left too little for a step to mend."""
    settings = ("prune.method=l2", "prune.ratio=0.85", "prune.multiple=8", "distill.train.steps=1")
    out = tmp_path_factory.mktemp("cut")
    return built(classifier, out, *TAUGHT, *settings, data=labelled)


def test_pruned_and_distilled_come_before_what_ships(cut_too_far: BuildResult) -> None:
    found = stages(cut_too_far.report, "kept_relative_error")
    assert found == ["pruned", "distilled", *SHIPPED]


def test_what_was_exported_is_compared_with_what_ships_as_ever(cut_too_far: BuildResult) -> None:
    assert stages(cut_too_far.report, "relative_error") == SHIPPED


def test_pruning_that_hurts_a_classifier_is_named(cut_too_far: BuildResult) -> None:
    failed = [row.metric for row in cut_too_far.report.rows if row.verdict == "fail"]
    assert "kept_accuracy_ratio" in failed, tiny.not_passed(cut_too_far.report)
    assert cut_too_far.report.culprit == "pruned"


def test_pruning_that_hurts_a_decoder_is_named(llama: Path, tmp_path: Path) -> None:
    settings = ("prune.method=l2", "prune.ratio=0.5", "prune.multiple=16")
    report = built(llama, tmp_path, *QUICK, *settings).report
    assert stages(report, "kept_kl_mean") == ["pruned", *SHIPPED]
    assert report.culprit == "pruned"


def test_distilling_at_an_absurd_rate_is_named(
    classifier: Path, labelled: Path, tmp_path: Path
) -> None:
    settings = ("prune.method=gradient", "prune.ratio=0.1", "prune.multiple=16",
                "distill.train.steps=12", "distill.train.lr=1.0")  # fmt: skip
    report = built(classifier, tmp_path, *TAUGHT, *settings, data=labelled).report
    found = values(report, "kept_relative_error")
    assert found["distilled"] > 5 * found["pruned"]
    assert report.culprit == "distilled"


@pytest.mark.slow
def test_a_wrong_teacher_is_named_where_nothing_was_pruned(llama: Path, tmp_path: Path) -> None:
    other = tiny.llama(tmp_path / "other", seed=5)
    settings = (f"distill.teacher={other}", "distill.train.steps=60", "distill.train.lr=0.01")
    report = built(llama, tmp_path / "out", *TAUGHT, *settings).report
    assert stages(report, "kept_kl_mean") == ["distilled", *SHIPPED]
    assert report.culprit == "distilled", tiny.not_passed(report)


@pytest.mark.slow
def test_a_window_and_several_prunings_are_a_stage_each(llama: Path, tmp_path: Path) -> None:
    settings = ("attention.window=64", "prune.depth.layers=1", "prune.vocab.max_vocab=288")
    report = built(llama, tmp_path, *QUICK, *settings).report
    assert stages(report, "kept_kl_mean") == ["windowed", "pruned", *SHIPPED]
    assert not [note for note in report.notes if "not measured" in note]


@pytest.mark.slow
def test_texts_are_asked_in_each_models_own_tokens(tmp_path: Path) -> None:
    settings = ("prune.vocab.ratio=0.2", "distill.train.steps=2")
    report = built(tiny.bert(tmp_path / "model"), tmp_path / "out", *TAUGHT, *settings).report
    assert stages(report, "kept_relative_error") == ["pruned", "distilled", *SHIPPED]


def test_codes_before_they_were_taught_are_a_stage(llama: Path, tmp_path: Path) -> None:
    ruined = (*CODES, "distill_codes.train.lr=10", "distill_codes.train.steps=6")
    result = built(llama, tmp_path, *ruined)
    assert stages(result.report, "kl_mean") == ["quantized", "learned", "graph", "runtime"]
    assert result.report.culprit == "learned"
    assert recheck(Recheck(result.bundle), quiet).stages == result.report.stages


# A check later


def copied(result: BuildResult, to: Path) -> Path:
    return Path(shutil.copytree(result.bundle, to / result.bundle.name))


def changed(bundle: Path, made: object) -> None:
    """The manifest with other `source.stages`, or without where None."""
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["source"].pop("stages")
    if made is not None:
        manifest["source"]["stages"] = made
    file.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_manifest_names_what_each_stage_made(cut_too_far: BuildResult) -> None:
    source = json.loads((cut_too_far.bundle / "manifest.json").read_text("utf-8"))["source"]
    assert [one["stage"] for one in source["stages"]] == ["prune", "distill"]
    assert source["stages"][-1]["digest"] == source["digest"]


def test_a_check_later_finds_every_stage(cut_too_far: BuildResult, labelled: Path) -> None:
    report = recheck(Recheck(cut_too_far.bundle, data=labelled, allow=("no-gain",)), quiet)
    assert report.stages == cut_too_far.report.stages
    assert report.notes == cut_too_far.report.notes


def test_an_older_manifest_is_checked_and_its_stages_measured_together(
    cut_too_far: BuildResult, labelled: Path, tmp_path: Path
) -> None:
    bundle = copied(cut_too_far, tmp_path)
    changed(bundle, None)
    report = recheck(Recheck(bundle, data=labelled, allow=("no-gain",)), quiet)
    assert stages(report, "kept_relative_error") == ["pruned and distilled", *SHIPPED]
    assert any("stage pruned was not measured by itself" in note for note in report.notes)
    assert report.culprit == "pruned and distilled"


@pytest.mark.slow
def test_a_stage_that_is_gone_from_the_cache_is_left_out_with_a_note(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    settings = ("prune.method=l2", "prune.ratio=0.3", "prune.multiple=16", "distill.train.steps=2")
    result = built(llama, tmp_path / "out", *TAUGHT, *settings)
    for folder in (cache.folder() / "stages").glob("prune_l2-*"):
        shutil.rmtree(folder)
    report = recheck(Recheck(result.bundle), quiet)
    assert stages(report, "kept_kl_mean") == ["pruned and distilled", *SHIPPED]
    assert any("is not in this machine's cache any more" in note for note in report.notes)


def test_stages_that_no_row_is_of_are_named_in_a_note(llama: Path) -> None:
    model = sources.load(sources.resolve(str(llama)), quiet)
    made = (Reshaped("prune", "a" * 64, model), Reshaped("distill", "b" * 64))
    [note] = left_out(replace(model, origin=model, reshaped=made), ())
    assert "(pruned and distilled) was not measured" in note


@pytest.mark.parametrize(
    "made",
    [[], "prune", [{"stage": "prune"}], [{"stage": "prune", "digest": "../../secret"}] * 2,
     [{"stage": "distill", "digest": "0" * 64}, {"stage": "prune", "digest": "0" * 64}]],
)  # fmt: skip
def test_stages_that_are_not_those_of_the_passes_are_refused(
    made: object, cut_too_far: BuildResult, tmp_path: Path
) -> None:
    bundle = copied(cut_too_far, tmp_path)
    changed(bundle, made)
    with pytest.raises(BadInputError, match="source: stages"):
        recheck(Recheck(bundle), quiet)


# Attribution


def test_where_what_was_exported_fails_too_the_largest_loss_is_named(
    cut_too_far: BuildResult,
) -> None:
    report = cut_too_far.report
    rows = tuple(replace(row, verdict="fail") if row.metric == "class_agreement" else row
                 for row in report.rows)  # fmt: skip
    worse = tuple(replace(one, value=9.0) if one.stage in ("graph", "runtime") else one
                  for one in report.stages)  # fmt: skip
    assert replace(report, rows=rows).culprit == "pruned"
    assert replace(report, rows=rows, stages=worse).culprit == "graph"
    assert replace(report, stages=worse).culprit == "pruned"
