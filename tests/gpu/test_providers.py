"""Which provider computes: told from what the installed onnxruntime offers, the CPU by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgecompile.runtime import providers
from edgecompile.runtime.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.runtime.providers import (
    BY_NAME,
    VARIABLE,
    Opening,
    accepted,
    candidates,
    open_on_device,
)

ALL = [BY_NAME[name] for name in ("cuda", "directml", "webgpu")]
OFFERED = onnxruntime.get_available_providers()
plain = pytest.mark.skipif(
    not {one.engine for one in ALL}.isdisjoint(OFFERED), reason=f"a GPU's wheel: {OFFERED}"
)


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@plain
def test_without_a_gpus_wheel_the_bundle_is_refused_and_the_wheels_are_named() -> None:
    with pytest.raises(UnsupportedError) as caught:
        candidates(onnxruntime, ALL)
    assert "CPUExecutionProvider" in caught.value.found
    assert "pip install onnxruntime-gpu or pip install onnxruntime-directml" in str(caught.value)
    assert caught.value.exit_code == 3


def test_the_cpu_is_taken_where_it_is_asked_for_by_name() -> None:
    assert [one.name for one in candidates(onnxruntime, ALL, "cpu")] == ["cpu"]


def test_the_variable_asks_as_an_argument_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")
    assert [one.name for one in candidates(onnxruntime, ALL)] == ["cpu"]


def test_a_provider_that_a_bundle_is_not_for_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cuda or cpu, for this bundle"):
        candidates(onnxruntime, ALL[:1], "webgpu")


def test_an_unknown_provider_is_a_wrong_name() -> None:
    with pytest.raises(UsageError, match="one of cuda, tensorrt-rtx, directml, webgpu, cpu"):
        candidates(onnxruntime, ALL, "gpu")


@plain
def test_a_provider_asked_for_that_is_not_there_is_refused_with_its_wheel() -> None:
    with pytest.raises(UnsupportedError, match="pip install onnxruntime-webgpu"):
        candidates(onnxruntime, ALL, "webgpu")


@pytest.mark.parametrize("names", [None, [], ["cpu"], ["rocm"], "cuda"])
def test_a_manifest_that_names_no_gpus_provider_is_not_opened(names: object) -> None:
    with pytest.raises(BadInputError, match=r"engine\.options\.providers"):
        accepted({"providers": names})


def test_the_manifests_order_is_kept() -> None:
    found = accepted({"providers": ["webgpu", "cuda"]})
    assert [one.title for one in found] == ["WebGPU", "CUDA"]


def product(file: Path) -> Path:
    port = helper.make_tensor_value_info
    shape = [2, 2]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "a"], ["b"], "product")], "g",
        [port("a", TensorProto.FLOAT, shape)], [port("b", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file


def session(file: Path, engines: Sequence[str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(file, options, providers=list(engines), enable_fallback=0)


def test_a_session_on_the_cpu_by_name_says_that_it_is_software(tmp_path: Path) -> None:
    file = product(tmp_path / "a.onnx")
    opening = Opening(lambda names: session(file, names), lambda *_: 7, {"providers": ["cuda"]})
    found = open_on_device(onnxruntime, opening, "cpu")
    assert (found.provider.name, found.software, found.host_nodes) == ("cpu", True, 0)
    assert found.session.run(None, {"a": np.eye(2, dtype=np.float32)})[0][0, 0] == 1


def test_nodes_of_floats_on_the_cpu_are_seen(tmp_path: Path) -> None:
    """What the device would be asked of a graph that it does not take: here the CPU took it all."""
    found = session(product(tmp_path / "a.onnx"), ["CPUExecutionProvider"])
    assert list(providers.on_host(found)) == [("product", "MatMul")]
    assert providers.misplaced([("product", "MatMul")], ()) == ["product"]


def test_nodes_of_integers_may_be_left_to_the_cpu_but_not_marked_ones() -> None:
    left = [("length", "Shape"), ("rows", "Gather")]
    assert providers.misplaced(left, ()) == []
    assert providers.misplaced(left, ("rows",)) == ["rows"]


def test_no_driver_of_a_software_gpu_is_in_this_process() -> None:
    assert providers.software_driver() == ""
