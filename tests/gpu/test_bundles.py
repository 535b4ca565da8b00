"""Bundles for GPUs on a machine without one: built, not run, proven on the CPU by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnxruntime
import pytest

from edgecompile import target
from edgecompile.build import BuildResult, build
from edgecompile.checks.device import VARIABLE as PYTHON
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.plan import Request, plan
from edgecompile.runtime import load
from edgecompile.runtime.device_probe import prompt_step
from edgecompile.runtime.manifest import read_manifest
from edgecompile.runtime.onnxruntime_decoder import PROMPT_CHUNK
from edgecompile.runtime.providers import BY_NAME, VARIABLE
from tests.gpu.conftest import Built, quiet

TARGETS = ("gpu", "gpu-webgpu", "browser", "jetson-orin-nano")


@pytest.fixture(autouse=True)
def no_gpu_and_nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(PYTHON, raising=False)


def row(result: BuildResult, metric: str) -> str:
    return next(row.verdict for row in result.report.rows if row.metric == metric)


def test_without_a_gpu_the_bundle_is_kept_only_by_name_and_says_so(llama: BuildResult) -> None:
    assert llama.report.verdict == "unproven"
    assert llama.report.proven_on["device"] == "not-run"
    assert llama.passed  # --allow not-run
    assert not dataclasses.replace(llama.report, allowed=()).accepted


def test_without_a_gpu_the_answers_are_those_of_the_cpu_provider(llama: BuildResult) -> None:
    assert row(llama, "export_kl_mean") == "pass"
    assert row(llama, "device_run") == "unproven"


def test_a_cpus_speed_is_not_shown_for_a_gpus(llama: BuildResult) -> None:
    assert not {"decode_speed", "first_token"} & {row.metric for row in llama.report.rows}


@pytest.mark.slow
def test_the_cpu_asked_for_by_name_proves_a_float16_graph_as_software(
    build_for: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")
    result = build_for("bert", "gpu")
    assert [row for row in result.report.rows if row.verdict == "fail"] == []
    assert result.report.proven_on["device"] == "software"
    assert result.report.proven_on["gpu"] == "ONNX Runtime on the CPU"


def test_a_gpus_bundle_is_not_opened_on_the_cpu_unasked(llama: BuildResult) -> None:
    with pytest.raises(UnsupportedError, match="pip install onnxruntime-webgpu"):
        load(llama.bundle)
    with load(llama.bundle, provider="cpu") as session:
        assert session.device["provider"] == "cpu"
        assert all(result.passed for result in session.self_test())


@pytest.mark.slow
def test_a_cpus_bundle_has_no_provider_to_choose(build_for: Built) -> None:
    with pytest.raises(UnsupportedError, match="this one is for CPUs"):
        load(build_for("llama", "cpu").bundle, provider="cuda")


def test_golden_answers_are_the_cpus_whatever_device_is_here(
    llama: BuildResult, build_for: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (llama.bundle / "manifest.json").read_bytes()
    monkeypatch.setenv(VARIABLE, "cpu")
    other = build_for("llama", "gpu-webgpu").bundle / "manifest.json"
    assert json.loads(one)["golden"] == "golden.json"
    assert one == other.read_bytes()


@pytest.mark.slow
def test_two_targets_of_one_model_hold_the_same_codes(build_for: Built) -> None:
    bundles = [build_for("llama", name).bundle for name in ("cpu", "gpu", "gpu-webgpu")]
    manifests = [json.loads((bundle / "manifest.json").read_text()) for bundle in bundles]
    assert len({manifest["weights_digest"] for manifest in manifests}) == 1


def test_the_manifest_names_the_providers_and_the_wheel(build_for: Built) -> None:
    engine = json.loads((build_for("llama", "gpu").bundle / "manifest.json").read_text())["engine"]
    assert engine["options"]["providers"] == ["cuda", "tensorrt-rtx", "directml", "webgpu"]
    assert engine["options"]["compute_precision"] == "float16"
    assert engine["requires"] == "onnxruntime-gpu>=1.27"
    assert engine["tested"] == "none"  # no float16 was run on a device


def test_what_was_run_is_named(llama: BuildResult) -> None:
    engine = json.loads((llama.bundle / "manifest.json").read_text())["engine"]
    assert engine["tested"] == "onnxruntime-webgpu 1.27.0"


def test_a_device_that_computes_as_the_cpu_does_takes_a_prompt_at_once(llama: BuildResult) -> None:
    """The probe in the bundle, asked twice of the CPU: once as if it were the device."""
    as_device = dataclasses.replace(BY_NAME["webgpu"], engine=BY_NAME["cpu"].engine)
    info = read_manifest(llama.bundle)
    assert prompt_step(onnxruntime, llama.bundle, info, as_device) == PROMPT_CHUNK


def test_a_probe_that_the_manifest_does_not_list_is_not_opened(llama: BuildResult) -> None:
    info = read_manifest(llama.bundle)
    moved = {**info.engine.options, "probe": "../probe.onnx"}
    info = dataclasses.replace(info, engine=dataclasses.replace(info.engine, options=moved))
    with pytest.raises(BadInputError, match="a path of `files`"):
        prompt_step(onnxruntime, llama.bundle, info, BY_NAME["webgpu"])


@pytest.mark.parametrize("name", TARGETS)
def test_the_shelfs_targets_for_gpus_can_be_planned(name: str, models: Path) -> None:
    request = Request(str(models / "llama"), (name,))
    assert plan(request).targets[0].backend.device == "gpu"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["tpu"])
def test_what_is_not_built_is_refused_with_its_reason(name: str, models: Path) -> None:
    with pytest.raises(UnsupportedError, match="not built: ") as caught:
        list(build(plan(Request(str(models / "llama"), (name,))), quiet))
    assert target.find(name).refused in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_target_has_a_backend_or_a_reason(tmp_path: Path) -> None:
    for text in ('description = "d"', 'description = "d"\nbackend = "null"\nrefused = "no"'):
        (tmp_path / "t.toml").write_text(text)
        with pytest.raises(UsageError, match="a backend, or why it is refused"):
            target.find(str(tmp_path / "t.toml"))
