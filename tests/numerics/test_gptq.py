"""GPTQ on the grid: never worse than rounding to nearest, and as another implementation does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.numerics.gptq import (
    Rounding,
    descend,
    fitted_scales,
    gptq,
    inverse_factor,
    round_columns,
    row_losses,
)
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme

INT4, INT8 = Scheme(4, 32), Scheme(8, 0)
DATA = Path(__file__).parent / "data"
SEEDS = st.integers(0, 2**16)


def layer(seed: int, out: int = 12, columns: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and the second moments of inputs that depend on each other."""
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, columns, generator=chance) * 0.1
    mixing = torch.randn(columns, columns, generator=chance)
    inputs = torch.randn(300, columns, generator=chance) @ mixing
    return weight, inputs.T @ inputs / len(inputs)


def loss(weight: torch.Tensor, hessian: torch.Tensor, values: np.ndarray) -> float:
    error = weight.double() - torch.from_numpy(values).double()
    return float(((error @ hessian.double()) * error).sum())


@pytest.mark.parametrize("order", ["codes_in_order", "codes_by_diagonal"])
def test_codes_are_those_of_llmcompressor_at_the_same_scales_order_and_damping(order: str) -> None:
    data = np.load(DATA / "gptq_llmcompressor.npz")
    weight, hessian = (torch.from_numpy(data[name]) for name in ("weight", "hessian"))
    scales = torch.from_numpy(data["scales"]).repeat_interleave(32, dim=1)
    columns = torch.arange(len(hessian))
    if order == "codes_by_diagonal":
        columns = torch.argsort(hessian.diagonal(), descending=True)
    factor, _ = inverse_factor(hessian, float(data["damping"]), columns)
    codes = torch.empty_like(weight)
    codes[:, columns] = round_columns(weight[:, columns], factor, scales[:, columns], INT4)
    differing = (codes.to(torch.int8).numpy() != data[order]).mean()
    assert differing <= 0.002, "only a value that lies between two codes may fall either way"


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from([INT4, INT8]), st.booleans(), st.integers(0, 2))
def test_no_layer_loses_more_than_by_rounding_to_nearest(
    seed: int, scheme: Scheme, act_order: bool, sweeps: int
) -> None:
    weight, hessian = layer(seed)
    found = gptq(weight, hessian, scheme, Rounding(act_order=act_order, sweeps=sweeps))
    nearest = quantize(weight.numpy(), scheme, True, hessian.diagonal().numpy())
    mine, plain = (loss(weight, hessian, t.dequantize()) for t in (found.tensor, nearest))
    assert mine <= plain * (1 + 1e-4)


def test_correlated_inputs_lose_less_than_half_of_what_nearest_loses() -> None:
    weight, hessian = layer(0, out=64, columns=128)
    found = gptq(weight, hessian, INT4, Rounding())
    assert found.error < 0.8 * found.nearest_error


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_neither_refinement_makes_the_loss_larger(seed: int) -> None:
    weight, hessian = layer(seed)
    nearest = quantize(weight.numpy(), INT4)
    codes = torch.from_numpy(nearest.codes).float()
    scales = torch.from_numpy(nearest.scales).repeat_interleave(32, dim=1)
    before = row_losses(weight, hessian, codes, scales)
    moved = descend(weight, hessian, codes, scales, INT4)
    between = row_losses(weight, hessian, moved, scales)
    fitted = fitted_scales(weight, hessian, moved, scales, INT4)
    after = row_losses(weight, hessian, moved, fitted)
    assert (between <= before * (1 + 1e-4) + 1e-7).all(), "coordinate descent"
    assert (after <= between * (1 + 1e-4) + 1e-7).all(), "fit of the scales"


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_scales_stay_positive_and_exact_in_both_half_formats(seed: int) -> None:
    weight, hessian = layer(seed)
    scales = gptq(weight, hessian, INT4, Rounding(sweeps=2)).tensor.scales
    assert (scales > 0).all(), "positive"
    assert (scales.astype(np.float16).astype(np.float32) == scales).all(), "float16"
    assert (scales.view(np.uint32) & 0xFFFF == 0).all(), "bfloat16"


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_rows_in_another_order_get_the_same_codes(seed: int) -> None:
    weight, hessian = layer(seed)
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    plain = gptq(weight, hessian, INT4, Rounding()).tensor.codes
    moved = gptq(weight[order].contiguous(), hessian, INT4, Rounding()).tensor.codes
    assert (plain[order.numpy()] == moved).mean() > 0.999


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_groups_in_another_order_lose_the_same_by_diagonal_order(seed: int) -> None:
    weight, hessian = layer(seed)
    order = torch.cat([torch.arange(32, 64), torch.arange(32)])
    plain = gptq(weight, hessian, INT4, Rounding(sweeps=0))
    turned = hessian[order][:, order].contiguous()
    moved = gptq(weight[:, order].contiguous(), turned, INT4, Rounding(sweeps=0))
    assert moved.error == pytest.approx(plain.error, rel=0.02)


def test_a_column_without_input_is_rounded_to_nearest_and_counted() -> None:
    weight, hessian = layer(1)
    hessian[7] = hessian[:, 7] = 0
    found = gptq(weight, hessian, INT4, Rounding())
    values = found.tensor.dequantize()
    step = np.repeat(found.tensor.scales, 32, axis=1)[:, 7]
    assert found.dead == 1
    assert (np.abs(values[:, 7] - weight[:, 7].numpy()) <= step * 1.5).all()


def test_a_group_of_zeros_gets_zero_codes() -> None:
    weight, hessian = layer(2)
    weight[:, :32] = 0
    tensor = gptq(weight, torch.diag(hessian.diagonal()), INT4, Rounding()).tensor
    assert (tensor.codes[:, :32] == 0).all()


def test_an_outlier_column_does_not_ruin_the_others() -> None:
    weight, hessian = layer(3)
    weight[:, 5] *= 100
    found = gptq(weight, hessian, INT4, Rounding())
    assert found.error <= found.nearest_error


def test_a_hessian_of_too_low_rank_raises_the_damping_and_says_so() -> None:
    weight, _ = layer(4)
    inputs = torch.ones(1, 64) * 1e3
    found = gptq(weight, inputs.T @ inputs, INT4, Rounding(damping=0.0, shrink=0.0))
    assert found.damping > 0


def test_inputs_that_are_not_finite_are_refused() -> None:
    weight, hessian = layer(5)
    hessian[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        gptq(weight, hessian, INT4, Rounding())


def test_columns_that_do_not_divide_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="48 columns do not divide into groups of 32"):
        gptq(torch.zeros(1, 48), torch.eye(48), INT4, Rounding())


def test_the_same_codes_come_from_one_core_and_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = layer(6, out=5000)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr("edgecompile.numerics.parallel.usable_cores", lambda cores=cores: cores)
        found.append(gptq(weight, hessian, INT4, Rounding(sweeps=1)).tensor.digest("w"))
    assert found[0] == found[1]
