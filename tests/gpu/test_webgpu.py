"""The shipped graphs on ONNX Runtime's WebGPU provider, a real GPU's or a software one's.

EDGECOMPILE_GPU_PYTHON names an interpreter with onnxruntime-webgpu (docs/gpu.md).
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from edgecompile.checks.device import VARIABLE as PYTHON
from edgecompile.runtime.providers import VARIABLE
from edgecompile.runtime.worker_client import Worker
from tests.gpu.conftest import Built

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON not in os.environ, reason=f"{PYTHON} names no interpreter"),
]
IDS = [2, 39, 76, 113, 150, 187]  # beyond the four positions that a subgroup of 4 gets right


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_decoder_is_proven_on_the_device(build_for: Built) -> None:
    report = build_for("llama", "gpu-webgpu").report
    assert report.verdict == "pass"
    assert "WebGPU" in report.proven_on["gpu"]


def test_an_encoder_is_proven_on_the_device(build_for: Built) -> None:
    report = build_for("bert", "gpu-webgpu").report
    assert report.verdict == "pass"
    assert "WebGPU" in report.proven_on["gpu"]


def test_no_node_of_a_decoder_runs_on_the_cpu(build_for: Built) -> None:
    bundle = build_for("llama", "gpu-webgpu").bundle
    with Worker(bundle, os.environ[PYTHON], verify="never") as worker:
        assert worker.hello()["device"]["host_nodes"] == 0


def test_a_prompt_longer_than_a_subgroup_is_the_cpus(build_for: Built) -> None:
    bundle = build_for("llama", "gpu-webgpu").bundle
    found = []
    for python, provider in ((sys.executable, "cpu"), (os.environ[PYTHON], "webgpu")):
        with Worker(bundle, python, verify="never", provider=provider) as worker:
            found.append(np.concatenate(list(worker.logits(IDS))))
    assert np.abs(found[0] - found[1]).max() < 1e-4
