"""Builds whose passes make a smaller model: what ships, what it is compared with, what is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgecompile import build as builder
from edgecompile import cache
from edgecompile.build import BuildResult
from edgecompile.checks.limits import limits_for
from edgecompile.compress import Compressed, compress
from edgecompile.errors import UsageError
from edgecompile.plan import Plan, Request, plan
from edgecompile.recheck import Recheck, recheck
from edgecompile.runtime import load
from tests import tiny

SETTINGS = (
    "prune.method=l2", "prune.ratio=0.3", "prune.multiple=16", "quantize.bits=8",
    "quantize.method=rtn", "check.texts=8", "check.tokens=512",
)  # fmt: skip


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def planned(model: Path, out: Path, *targets: str, settings: tuple[str, ...] = SETTINGS) -> Plan:
    return plan(Request(str(model), targets, out=out, settings=settings, allow=("no-gain",)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def results(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[BuildResult]:
    out = tmp_path_factory.mktemp("out")
    return list(builder.build(planned(llama, out, "cpu", "gguf"), quiet))


def manifest(bundle: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((bundle / "manifest.json").read_text())
    return found


def test_the_smaller_model_is_what_ships_to_every_target(results: list[BuildResult]) -> None:
    shapes = {
        tuple(map(str, manifest(result.bundle)["facts"].items()))  # type: ignore[attr-defined]
        for result in results
    }
    assert len(shapes) == 1
    assert "'hidden_size', 64.0" not in str(shapes)


def test_both_engines_hold_the_same_codes(results: list[BuildResult]) -> None:
    assert len({manifest(result.bundle)["weights_digest"] for result in results}) == 1


def test_a_manifest_names_the_model_that_came_in_and_the_one_that_was_exported(
    results: list[BuildResult],
) -> None:
    source = manifest(results[0].bundle)["source"]
    assert source["origin"] != source["digest"]  # type: ignore[index]


def test_what_was_kept_of_the_model_that_came_in_is_judged(results: list[BuildResult]) -> None:
    limits = {row.metric: row.limit for row in results[0].report.rows if row.step == "kept"}
    assert limits["kept_kl_mean"] == 0.32


def test_a_smaller_model_that_kept_too_little_is_rejected(results: list[BuildResult]) -> None:
    row = next(r for r in results[0].report.rows if r.metric == "kept_top1_agreement")
    assert row.verdict == "fail"
    assert results[0].bundle.name.endswith(".rejected")


def test_rounding_is_judged_apart_from_pruning(results: list[BuildResult]) -> None:
    rows = {row.metric: row.verdict for row in results[0].report.rows if row.step == "quality"}
    assert rows["kl_mean"] == "pass"


def test_every_sealed_float_and_code_is_the_smaller_models(results: list[BuildResult]) -> None:
    for result in results:
        rows = {row.metric: row.verdict for row in result.report.rows if row.step == "sealed"}
        assert rows["tensors_missing"] == rows["floats_differing"] == "pass"


def test_pruning_ran_once_for_both_targets(results: list[BuildResult]) -> None:
    assert "prune" in results[1].reused


def test_a_smaller_bundle_answers(results: list[BuildResult]) -> None:
    with load(results[0].bundle) as session:
        assert len(list(session.generate_ids([5, 6, 7], 4))) == 4


def test_a_check_later_finds_both_models(results: list[BuildResult]) -> None:
    report = recheck(Recheck(results[0].bundle), quiet)
    assert "kept_kl_mean" in {row.metric for row in report.rows}


def test_a_check_where_the_smaller_model_is_gone_says_to_build_again(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    result = next(builder.build(planned(llama, tmp_path / "out", "null"), quiet))
    shutil.rmtree(cache.folder() / "stages")
    with pytest.raises(UsageError, match="build it again"):
        recheck(Recheck(result.bundle), quiet)


def test_another_model_as_the_source_is_refused(
    results: list[BuildResult], tmp_path: Path
) -> None:
    from edgecompile.errors import BadInputError

    other = tiny.llama(tmp_path / "other", seed=1)
    with pytest.raises(BadInputError, match="the model that the bundle was built from"):
        recheck(Recheck(results[0].bundle, source=str(other)), quiet)


def test_a_plan_estimates_the_smaller_model(llama: Path, tmp_path: Path) -> None:
    whole = planned(llama, tmp_path, "cpu", settings=SETTINGS[3:])
    smaller = planned(llama, tmp_path, "cpu")
    assert smaller.targets[0].estimate.size_bytes < whole.targets[0].estimate.size_bytes


def test_a_recipe_makes_what_is_kept_stricter_and_never_looser() -> None:
    found = limits_for("int8", 0, {"kept_kl_mean": 0.01, "kept_top1_agreement": 0.1})
    assert (found["kept_kl_mean"], found["kept_top1_agreement"]) == (0.01, 0.66)


def compressed(model: Path, out: Path, *settings: str, overwrite: bool = False) -> Compressed:
    request = Request(str(model), (), settings=settings, overwrite=overwrite)
    return compress(request, out, quiet)


def test_compress_writes_what_a_build_would_export(
    llama: Path, results: list[BuildResult], tmp_path: Path
) -> None:
    done = compressed(llama, tmp_path / "smaller", *SETTINGS)
    source = manifest(results[0].bundle)["source"]
    assert done.model.source.digest == source["digest"]  # type: ignore[index]


def test_what_compress_wrote_builds_like_any_folder(llama: Path, tmp_path: Path) -> None:
    done = compressed(llama, tmp_path / "smaller", *SETTINGS)
    result = next(builder.build(planned(done.folder, tmp_path / "out", "null",
                                        settings=SETTINGS[3:]), quiet))  # fmt: skip
    assert "origin" not in manifest(result.bundle)["source"]  # type: ignore[operator]


def test_the_card_says_what_was_done(llama: Path, tmp_path: Path) -> None:
    done = compressed(llama, tmp_path / "smaller", *SETTINGS)
    text = (done.folder / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0")
    assert "- prune_l2: heads 2, mlp 128" in text


def test_compress_without_anything_to_do_says_how(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prune\.method=gradient"):
        compressed(llama, tmp_path / "smaller")
    assert not (tmp_path / "smaller").exists()


def test_compress_replaces_a_folder_only_when_told(llama: Path, tmp_path: Path) -> None:
    compressed(llama, tmp_path / "smaller", *SETTINGS)
    with pytest.raises(UsageError, match="exists already"):
        compressed(llama, tmp_path / "smaller", *SETTINGS)
    compressed(llama, tmp_path / "smaller", *SETTINGS, overwrite=True)


def with_few_tokens(
    model: Path, folder: Path, *targets: str, backend: str = ""
) -> list[BuildResult]:
    few = folder / "few.txt"
    few.write_text("the quick brown fox jumps over the lazy dog\n")
    settings = (f"prune.vocab.corpus={few}", "prune.vocab.multiple=1", *SETTINGS[3:])
    settings += (f"target.backend={backend}",) if backend else ()
    return list(builder.build(planned(model, folder / "out", *targets, settings=settings), quiet))


@pytest.fixture(scope="module")
def fewer_tokens(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return with_few_tokens(llama, tmp_path_factory.mktemp("vocabulary"), "cpu")[0]


def test_kept_distributions_are_over_the_tokens_that_both_have(fewer_tokens: BuildResult) -> None:
    rows = {row.metric: row for row in fewer_tokens.report.rows}
    assert rows["kept_kl_mean"].value == pytest.approx(rows["kl_mean"].value, abs=2e-3)


def test_what_words_cut_anew_cost_is_in_the_perplexity_that_was_kept(
    fewer_tokens: BuildResult,
) -> None:
    rows = {row.metric: row for row in fewer_tokens.report.rows}
    assert rows["kept_perplexity_ratio"].value > 1.01 > rows["perplexity_ratio"].value


def test_a_manifest_names_a_file_without_its_folder(fewer_tokens: BuildResult) -> None:
    options = {one["name"]: one["options"] for one in manifest(fewer_tokens.bundle)["passes"]}  # type: ignore[attr-defined]
    assert options["prune_vocab"]["corpus"] == "few.txt"


def test_tokens_layers_and_what_is_learned_again_in_one_recipe(
    llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "few.txt").write_text("the quick brown fox\n")
    done = compressed(
        llama, tmp_path / "smaller", f"prune.vocab.corpus={tmp_path / 'few.txt'}",
        "prune.vocab.multiple=1", "prune.method=depth", "prune.layers=1", "prune.length=16",
        "distill.texts=8", "distill.length=16", "distill.train.steps=2",
    )  # fmt: skip
    assert [note.split(":")[0] for note in done.notes] == ["prune_vocab", "prune_depth", "distill"]


def test_a_file_that_is_not_there_is_refused_before_a_weight_is_read(
    llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no file"):
        planned(llama, tmp_path, "cpu", settings=("prune.vocab.keep=absent.txt",))


def test_a_plan_counts_on_the_largest_vocabulary_that_may_come(llama: Path, tmp_path: Path) -> None:
    whole = planned(llama, tmp_path, "cpu", settings=SETTINGS[3:])
    smaller = planned(llama, tmp_path, "cpu", settings=("prune.vocab.max_vocab=288", *SETTINGS[3:]))
    assert smaller.targets[0].estimate.size_bytes < whole.targets[0].estimate.size_bytes


def test_other_text_in_a_named_file_gives_another_model(llama: Path, tmp_path: Path) -> None:
    few, digests = tmp_path / "few.txt", set()
    for text in ("the quick brown fox\n", "jumps over the lazy dog\n"):
        few.write_text(text)
        settings = (f"prune.vocab.corpus={few}", "prune.vocab.multiple=1")
        digests.add(compressed(llama, tmp_path / "out", *settings, overwrite=True).model.source)
    assert len(digests) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "backend"),
    [("cpu", "openvino"), ("mobile", "executorch"), ("gguf", "gguf")],
)
def test_a_smaller_vocabulary_fails_nothing_on_other_engines(
    target: str, backend: str, llama: Path, tmp_path: Path
) -> None:
    [result] = with_few_tokens(llama, tmp_path, target, backend=backend)
    rows = {row.metric: row.value for row in result.report.rows}
    assert [row for row in result.report.rows if row.verdict == "fail"] == []
    assert rows.get("engine_tokenizer_differences", 0.0) == 0  # llama.cpp's own, of its file
