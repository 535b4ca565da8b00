"""distill_codes on small true architectures: what is learned is what is exported, and refusals."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile import bundle, codes, sources
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import QuantizedTensor, Scheme, representable_scale
from edgecompile.passes import Pass, PassResult
from edgecompile.passes.allocate_bits import AllocateBits
from edgecompile.passes.distill_codes import DistillCodes
from edgecompile.passes.quantize_awq import QuantizeAwq
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.passes.quantize_smooth import QuantizeSmooth
from edgecompile.plan import Request, plan
from edgecompile.train import distilling
from edgecompile.train.codes import SCALE_STEP, CodedWeight, install
from tests import tiny
from tests.architectures import cells

KINDS = {kind.model_type: kind for kind in cells.KINDS}
SHORT: dict[str, Any] = {"steps": 16, "batch": 8, "lr": 0.02, "threads": 1, "save_every": 2}
QUICK: dict[str, Any] = {"texts": 32, "length": 24, "train": SHORT}
FOUR: dict[str, Any] = {"bits": 4, "scale_search": False}


def quantized(folder: Path, task: str = "text-generation", how: Pass | None = None) -> Model:
    kind = KINDS["llama" if task == "text-generation" else "bert"]
    model = cells.make(kind, task, folder / "model")
    return (how or QuantizeRtn(**FOUR))(model, tiny.work(folder / "quantize", tiny.corpus())).model


def distilled(model: Model, folder: Path, **options: Any) -> PassResult:
    chosen = DistillCodes(**{**QUICK, **options})
    return chosen(model, tiny.work(folder / "codes", tiny.corpus()))


def loss(model: Model, folder: Path) -> float:
    """How far a model with codes is from itself in floats, on text that was not trained on."""
    options = DistillCodes(**QUICK)
    work = tiny.work(folder / "loss", tiny.corpus())
    student, objective = distilling.prepared(options, model, model, work)
    install(student, model.quantized, model.replaced, (), (), scales=False)
    with torch.no_grad():
        return objective.evaluate(student.eval())["loss"]


def alike(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    return np.array_equal(one.codes, other.codes) and np.array_equal(one.scales, other.scales)


@pytest.mark.parametrize("task", ["embedding", "classification", "text-generation"])
def test_codes_come_nearer_to_the_model_in_floats(task: str, tmp_path: Path) -> None:
    model = quantized(tmp_path, task)
    after = distilled(model, tmp_path).model
    assert loss(after, tmp_path) < 0.9 * loss(model, tmp_path)


@pytest.mark.parametrize("how", [QuantizeRtn, QuantizeGptq, QuantizeAwq])
def test_training_begins_with_the_codes_that_were_chosen(
    how: Callable[..., Pass], tmp_path: Path
) -> None:
    model = quantized(tmp_path, how=how(bits=4))
    after = distilled(model, tmp_path, train={**SHORT, "lr": 0.0}).model
    assert all(alike(after.quantized[name], tensor) for name, tensor in model.quantized.items())


def test_the_last_steps_weights_are_the_exported_codes(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    scales = representable_scale(drawn.uniform(1e-3, 1, (6, 2)).astype(np.float32))
    first = QuantizedTensor(Scheme(4, 32), drawn.integers(-8, 8, (6, 64), np.int8), scales)
    weight = CodedWeight(first, (6, 64), scales=True)
    with torch.no_grad():
        weight.latent += torch.randn(weight.latent.shape) * 3
        weight.change += torch.randn(weight.change.shape) * 9
    exported = weight.exported()
    assert np.array_equal(weight().detach().numpy(), exported.dequantize())
    assert np.array_equal(representable_scale(exported.scales), exported.scales)
    assert exported.codes.min() == -8
    assert exported.codes.max() == 7


def test_a_code_beyond_the_grid_only_comes_back(tmp_path: Path) -> None:
    first = QuantizedTensor(Scheme(4, 0), np.full((1, 2), 7, np.int8), np.ones((1, 1), "f4"))
    weight = CodedWeight(first, (1, 2), scales=True)
    with torch.no_grad():
        weight.latent += 1
    weight().backward(torch.tensor([[1.0, -1.0]]))
    assert weight.latent.grad is not None
    assert weight.latent.grad.flatten().tolist() == [1.0, 0.0]


def test_a_scales_gradient_is_the_losses(tmp_path: Path) -> None:
    first = QuantizedTensor(Scheme(4, 0), np.array([[3, -2]], np.int8), np.ones((1, 1), "f4"))
    weight = CodedWeight(first, (1, 2), scales=True)
    weight().backward(torch.tensor([[1.0, 10.0]]))
    assert weight.change.grad is not None
    assert float(weight.change.grad) == pytest.approx(SCALE_STEP * (3 - 20))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("trained")
    return distilled(quantized(folder), folder).model


@pytest.mark.parametrize("backend", list(cells.BACKENDS))
def test_every_engines_file_holds_the_codes_that_were_trained(
    backend: str, trained: Model, tmp_path: Path
) -> None:
    writer = cells.BACKENDS[backend]
    export = writer.export(trained, tmp_path, lambda *_: None)
    entries = bundle.tensor_entries(trained, export)
    stated = {
        "tensors": entries, "floats": bundle.float_entries(trained, export),
        "engine": {"options": dict(export.options)}, "task": trained.task,
    }  # fmt: skip
    decoded = writer.decode(tmp_path, stated)
    assert decoded.quantized.keys() == trained.quantized.keys()
    assert all(alike(decoded.quantized[n], tensor) for n, tensor in trained.quantized.items())


def test_allocated_bits_stay_as_they_were_allocated(tmp_path: Path) -> None:
    model = cells.make(KINDS["llama"], "text-generation", tmp_path / "model")
    allocate = AllocateBits(bits_per_weight=5.5)
    model = allocate(model, tiny.work(tmp_path / "bits", tiny.corpus())).model
    model = QuantizeRtn(bits=4)(model, tiny.work(tmp_path / "quantize")).model
    after = distilled(model, tmp_path).model
    before = {name: tensor.scheme for name, tensor in model.quantized.items()}
    assert {name: tensor.scheme for name, tensor in after.quantized.items()} == before
    assert len(set(before.values())) > 1


def test_a_tied_head_learns_as_one_tensor_where_asked(tmp_path: Path) -> None:
    ref = sources.resolve(str(tiny.llama(tmp_path / "model")))
    source = sources.load(ref, lambda *_: None)
    model = QuantizeRtn(**FOUR)(source, tiny.work(tmp_path / "quantize")).model
    after = distilled(model, tmp_path, embedding=True, floats=False).model
    name = "model.embed_tokens.weight"
    assert "lm_head.weight" not in after.quantized
    assert not alike(after.quantized[name], model.quantized[name])


def test_without_scales_and_floats_codes_alone_change(tmp_path: Path) -> None:
    model = quantized(tmp_path)
    after = distilled(model, tmp_path, scales=False, floats=False).model
    assert after.replaced == {}
    for name, tensor in model.quantized.items():
        assert np.array_equal(after.quantized[name].scales, tensor.scales)


def test_norms_that_took_awqs_scales_are_learned_from_there(tmp_path: Path) -> None:
    model = quantized(tmp_path, how=QuantizeAwq(bits=4))
    after = distilled(model, tmp_path, train={**SHORT, "lr": 0.0}).model
    assert model.replaced
    for name, values in model.replaced.items():
        assert np.array_equal(after.replaced[name], values)


def test_skipped_tensors_keep_their_codes_and_are_reported(tmp_path: Path) -> None:
    model = quantized(tmp_path)
    result = distilled(model, tmp_path, skip=("*.q_proj.weight",))
    rows = {row.name: row.detail for row in result.layers if row.action == "skipped"}
    skipped = [name for name in model.quantized if name.endswith("q_proj.weight")]
    assert {rows[name] for name in skipped} == {"named in skip"}
    assert all(alike(result.model.quantized[n], model.quantized[n]) for n in skipped)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all codes with their scales, and of all floats."""
    quantized, floats = codes.load(folder)
    found = {name: tensor.digest(name) for name, tensor in quantized.items()}
    return found | {n: hashlib.sha256(v.tobytes()).hexdigest() for n, v in floats.items()}


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    model = quantized(tmp_path)
    distilled(model, tmp_path / "whole")
    child = os.fork()
    if child == 0:
        distilled(model, tmp_path / "killed")
        os._exit(0)
    training = tmp_path / "killed" / "codes" / "training"
    end = time.monotonic() + 60
    while not list(training.glob("step-*/state.json")) and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert not digests(training.parent)
    distilled(model, tmp_path / "killed")
    assert digests(training.parent) == digests(tmp_path / "whole" / "codes")


def test_a_model_without_codes_is_refused(tmp_path: Path) -> None:
    model = cells.make(KINDS["llama"], "text-generation", tmp_path / "model")
    with pytest.raises(UsageError, match="has codes"):
        distilled(model, tmp_path)


def test_8_bit_activations_are_refused(tmp_path: Path) -> None:
    model = quantized(tmp_path, "embedding", QuantizeSmooth())
    with pytest.raises(UnsupportedError, match="8-bit activations"):
        distilled(model, tmp_path)


def test_nothing_left_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="look at skip"):
        distilled(quantized(tmp_path), tmp_path, skip=("*",))


def test_a_task_without_such_losses_is_refused_by_plan(tmp_path: Path) -> None:
    model = cells.make(KINDS["bert"], "fill-mask", tmp_path / "model")
    with pytest.raises(UnsupportedError, match="task fill-mask") as raised:
        DistillCodes().preview(model)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("method", ["none", "importance"])
def test_a_plan_refuses_where_no_pass_chooses_codes(method: str, tmp_path: Path) -> None:
    settings = (f"quantize.method={method}", "distill_codes.soft=1")
    request = Request(str(tiny.llama(tmp_path / "m")), ("gguf",), tmp_path, settings=settings)
    with pytest.raises(UsageError, match="chooses no codes"):
        plan(request)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"soft": 0.0}, UsageError, r"\[distill_codes\]: every loss has weight 0"),
        ({"temperature": 0.0}, UsageError, "temperature"),
        ({"train": {"weight_decay": 0.1}}, UsageError, "pulls codes to 0"),
        ({"train": {"precision": "fp8"}}, UnsupportedError, "fp8"),
        ({"train": {"lrr": 1}}, UsageError, "lrr"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        DistillCodes(**options)


def test_a_plan_reads_the_table_behind_quantize(tmp_path: Path) -> None:
    settings = ("quantize.method=rtn", "distill_codes.scales=false")
    request = Request(str(tiny.llama(tmp_path / "m")), ("gguf",), tmp_path, settings=settings)
    assert [choice.name for choice in plan(request).targets[0].passes][-2:] == [
        "quantize_rtn", "distill_codes",
    ]  # fmt: skip


