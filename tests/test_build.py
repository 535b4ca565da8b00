"""The whole way on small real models: one command's worth of plan, build and check."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecompile import verify
from edgecompile.build import BuildResult, build
from edgecompile.errors import BadInputError, ResourceError, UnsupportedError, UsageError
from edgecompile.plan import Request, plan
from tests import tiny


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def built(model: Path | str, out: Path, *targets: str, **options: object) -> list[BuildResult]:
    request = Request(str(model), targets, out, **options)  # type: ignore[arg-type]
    return list(build(plan(request), quiet))


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@contextlib.contextmanager
def changed_tensors(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """The tensors of a model folder, written back when the block ends."""
    from safetensors.numpy import load, save_file

    file = folder / "model.safetensors"
    tensors = {name: array.copy() for name, array in load(file.read_bytes()).items()}
    yield tensors
    save_file(tensors, file)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def results(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[BuildResult]:
    return built(llama, tmp_path_factory.mktemp("dist"), "cpu", "gguf")


def test_one_command_builds_a_bundle_for_each_target(results: list[BuildResult]) -> None:
    assert [result.target for result in results] == ["cpu", "gguf"]


def test_a_random_model_is_judged_like_any_other(results: list[BuildResult]) -> None:
    # Random weights have nothing to lose; what the file must hold exactly still has to hold.
    rows = {row.metric: row.verdict for row in results[0].report.rows}
    assert {rows[name] for name in ("codes_differing", "floats_differing", "facts_differing")} == {
        "pass"
    }


def test_two_engines_hold_the_same_codes(results: list[BuildResult]) -> None:
    found = verify.compare(results[0].bundle, results[1].bundle)
    assert found.differences == ()
    assert found.digests[0] == found.digests[1]


def test_every_file_of_a_bundle_is_in_its_manifest(results: list[BuildResult]) -> None:
    manifest = json.loads((results[0].bundle / "manifest.json").read_text())
    listed = {entry["path"] for entry in manifest["files"]} | {"manifest.json"}
    assert listed == set(tree(results[0].bundle))


def test_nothing_of_this_machine_is_in_a_manifest(results: list[BuildResult], llama: Path) -> None:
    assert str(llama.parent) not in (results[0].bundle / "manifest.json").read_text()


def test_an_engine_that_a_bundle_does_not_use_is_not_in_it(results: list[BuildResult]) -> None:
    manifest = json.loads((results[0].bundle / "manifest.json").read_text())
    assert "onnxruntime" in manifest["libraries"]
    assert "llama-cpp-python" not in manifest["libraries"]


def test_the_report_lies_beside_the_bundle_and_names_its_manifest(
    results: list[BuildResult],
) -> None:
    folder = results[0].bundle.with_name(f"{results[0].bundle.name}.report")
    report = json.loads((folder / "report.json").read_text())
    raw = (results[0].bundle / "manifest.json").read_bytes()
    assert report["manifest_sha256"] == hashlib.sha256(raw).hexdigest()


def test_another_folder_and_an_empty_cache_give_the_same_bytes(
    results: list[BuildResult], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    again = built(llama, tmp_path / "elsewhere", "cpu", "gguf")
    for before, after in zip(results, again, strict=True):
        assert tree(before.bundle) == tree(after.bundle)


def test_a_second_build_resumes_from_the_cache(
    results: list[BuildResult], llama: Path, tmp_path: Path
) -> None:
    assert built(llama, tmp_path, "cpu")[0].reused == ("quantize", "export", "check")


def test_an_existing_bundle_is_refused_before_any_work(
    results: list[BuildResult], llama: Path
) -> None:
    out = results[0].bundle.parent
    existing = out / "tiny-llama-cpu"
    existing.mkdir(exist_ok=True)
    with pytest.raises(UsageError, match=r"exists already.*--overwrite"):
        plan(Request(str(llama), ("cpu",), out))


def test_two_builds_of_one_model_at_once_both_end_well(llama: Path, tmp_path: Path) -> None:
    found: list[BuildResult] = []
    threads = [
        threading.Thread(target=lambda: found.extend(built(llama, tmp_path, "null")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len({result.report.manifest_sha256 for result in found}) == 1


def test_what_is_not_proven_does_not_get_the_bundles_name(llama: Path, tmp_path: Path) -> None:
    (result,) = built(llama, tmp_path, "null")
    assert result.report.verdict != "pass"
    assert result.bundle.name == "tiny-llama-null.rejected"
    assert not (tmp_path / "tiny-llama-null").exists()


def test_a_model_without_a_plain_task_asks_for_it(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    (folder / "modules.json").unlink()
    with pytest.raises(UsageError, match="--task with one of embedding"):
        plan(Request(str(folder), ("cpu",), tmp_path))


def test_a_task_that_a_target_cannot_do_names_one_that_can(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    with pytest.raises(UnsupportedError, match="cpu"):
        plan(Request(str(folder), ("gguf",), tmp_path, task="classification"))


def test_only_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="save_pretrained"):
        plan(Request(str(folder), ("cpu",), tmp_path))


def test_a_truncated_weight_file_is_refused_by_plan(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInputError, match="ends at byte"):
        plan(Request(str(folder), ("cpu",), tmp_path))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    with changed_tensors(folder) as tensors:
        del tensors["encoder.layer.1.output.dense.weight"]
    with pytest.raises(BadInputError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        built(folder, tmp_path / "dist", "cpu")


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(BadInputError, match=r"has shape .*96"):
        plan(Request(str(folder), ("cpu",), tmp_path))


def test_nan_weights_name_the_tensor(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    with changed_tensors(folder) as tensors:
        tensors["encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    with pytest.raises(BadInputError, match=r"encoder\.layer\.0\.output\.dense\.weight holds NaN"):
        built(folder, tmp_path / "dist", "cpu")


def test_an_unknown_architecture_is_exit_3(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "brandnew"}))
    with pytest.raises(UnsupportedError, match="brandnew"):
        plan(Request(str(folder), ("cpu",), tmp_path))


def test_a_full_disk_is_told_by_plan(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shutil import disk_usage

    little = disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("edgecompile.plan.shutil.disk_usage", lambda _path: little)
    with pytest.raises(ResourceError, match="MB free"):
        plan(Request(str(llama), ("cpu",), tmp_path))


def test_an_unknown_model_names_the_nearest_on_the_shelf(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'all-minilm-l6-v2'"):
        plan(Request("all-minilm-l6", ("cpu",), tmp_path))


def test_a_plan_reads_no_weights(llama: Path, tmp_path: Path) -> None:
    found = plan(Request(str(llama), ("cpu",), tmp_path))
    assert found.model.source.digest == ""
    assert dataclasses.asdict(found.targets[0].estimate)["size_bytes"] > 0
