"""What a change is said to cost is what it costs, measured by making it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecompile import sources
from edgecompile.calibration.batches import Batch, text_batches
from edgecompile.calibration.sensitivity import Sensitivity
from edgecompile.model import Model
from edgecompile.numerics.swap import parameter_names
from edgecompile.reference import Reference
from tests import tiny
from tests.passes.test_gptq import classifier

LAYERS = {
    "llama": ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight",
              "model.embed_tokens.weight"],
    "bert": ["encoder.layer.0.output.dense.weight", "encoder.layer.1.attention.self.value.weight"],
    "classifier": ["bert.encoder.layer.1.output.dense.weight", "classifier.weight"],
}  # fmt: skip
MAKERS = {"llama": tiny.llama, "bert": tiny.bert, "classifier": classifier}


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def change(model: Model, name: str, size: float) -> torch.Tensor:
    """Random, of so much of the tensor's norm."""
    weight = torch.from_numpy(model.weights.float32(name))
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    return noise * (size * weight.norm() / noise.norm())


def answers(reference: Reference, batches: list[Batch]) -> list[torch.Tensor]:
    """Log-probabilities, or vectors, of every batch, float64."""
    module = reference.torch_module() if reference.model.task == "embedding" else reference.body
    found = []
    with torch.inference_mode():
        for batch in batches:
            result = module(**batch.inputs)
            if reference.model.task == "embedding":
                found.append(result.double())
            else:
                found.append(torch.log_softmax(result.logits.flatten(0, -2).double(), dim=-1))
    return found


def cost(before: list[torch.Tensor], after: list[torch.Tensor], task: str) -> float:
    """KL divergence per answer, or half the squared change of a vector."""
    pairs = list(zip(before, after, strict=True))
    if task == "embedding":
        total = sum(float(((a - b) ** 2).sum()) / 2 for a, b in pairs)
    else:
        total = sum(float((b.exp() * (b - a)).sum()) for b, a in pairs)
    return total / sum(map(len, before))


@pytest.mark.parametrize("name", MAKERS)
def test_costs_are_those_of_the_change_made(name: str, tmp_path: Path) -> None:
    model = sources.load(sources.resolve(str(MAKERS[name](tmp_path / "m"))), quiet)
    batches = text_batches(model, tiny.corpus(400).tuning, 400, 32)
    # A window's labels are one sample: many small batches, for the error falls with their root.
    few = [
        Batch({k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in b.inputs.items()})
        for b in batches for i in range(len(b.inputs["input_ids"]))
    ]  # fmt: skip
    changes = {layer: change(model, layer, 0.02) for layer in LAYERS[name]}
    found = Sensitivity(model, {layer: [d, 2 * d] for layer, d in changes.items()})
    costs = found.costs(few, lambda _done: None)
    reference = Reference(model)
    before = answers(reference, few)
    places = parameter_names(reference.body, changes)
    for layer, delta in changes.items():
        weight = reference.body.get_parameter(places[layer])
        with torch.no_grad():
            weight += delta
            true = cost(before, answers(reference, few), model.task)
            weight -= delta
        estimate, double = costs[layer]
        assert np.isclose(double, 4 * estimate, rtol=1e-3)
        assert 0.75 < estimate / true < 1.33, (layer, estimate, true)


def test_a_tensor_that_no_answer_depends_on_costs_nothing(tmp_path: Path) -> None:
    model = sources.load(sources.resolve(str(tiny.llama(tmp_path / "m"))), quiet)
    batches = text_batches(model, tiny.corpus().tuning, 2, 32)
    name = LAYERS["llama"][1]
    found = Sensitivity(model, {name: [torch.zeros(64, 128)]}).costs(batches, lambda _done: None)
    assert found == {name: [0.0]}


@pytest.mark.parametrize("cores", [1, 3])
def test_costs_do_not_depend_on_the_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    model = sources.load(sources.resolve(str(tiny.llama(tmp_path / "m"))), quiet)
    batches = text_batches(model, tiny.corpus(400).tuning, 320, 32)
    wanted = Sensitivity(model, {n: [change(model, n, 0.1)] for n in LAYERS["llama"]})
    plain = wanted.costs(batches, lambda _done: None)
    monkeypatch.setattr("edgecompile.numerics.parallel.usable_cores", lambda: cores)
    assert wanted.costs(batches, lambda _done: None) == plain
