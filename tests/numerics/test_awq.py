"""AWQ's scales against plain arithmetic, and what a search may never do."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.numerics import awq
from edgecompile.numerics.gptq import inverse_factor, round_columns
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme

INT4, INT8 = Scheme(4, 32), Scheme(8, 0)


def case(seed: int, rows: int = 48, columns: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and inputs whose channels differ in size by orders of magnitude."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw)
    spread = torch.randn(columns, generator=draw).mul(1.5).exp()
    return weight, torch.randn(256, columns, generator=draw) * spread


def inputs_of(x: torch.Tensor, channels: torch.Tensor | None = None) -> awq.Inputs:
    own = torch.arange(x.shape[1])
    return awq.Inputs(
        x.T @ x / len(x), x.abs().mean(0), own if channels is None else channels
    )


def test_the_loss_is_that_of_the_outputs_on_the_inputs() -> None:
    weight, x = case(0)
    scale = awq.channel_scales(inputs_of(x), 0.5)
    (loss,) = awq.total_losses([awq.Matrix(weight, INT4)], inputs_of(x), [scale], True)
    w, a, s = (t.numpy().astype(np.float64) for t in (weight, x, scale))
    importance = np.square(a).mean(0) / s**2
    rounded = quantize((weight * scale).numpy(), INT4, True, importance.astype(np.float32))
    wanted = np.square(a @ w.T - (a / s) @ rounded.dequantize().T.astype(np.float64)).sum() / len(a)
    assert np.isclose(loss, wanted, rtol=1e-3)


def test_scales_are_the_papers() -> None:
    _, x = case(1)
    m = np.abs(x.numpy()).mean(0)
    wanted = m**0.35 / np.sqrt((m**0.35).max() * (m**0.35).min())
    assert np.allclose(awq.channel_scales(inputs_of(x), 0.35).numpy(), wanted, rtol=1e-5)


def test_copies_of_a_channel_share_its_scale() -> None:
    _, x = case(2)
    channels = torch.arange(64) % 16
    scale = awq.channel_scales(inputs_of(x, channels), 0.5)
    assert (scale.view(4, 16) == scale[:16]).all()
    assert len(scale[:16].unique()) == 16


def test_a_channel_without_input_keeps_scales_finite_and_positive() -> None:
    weight, x = case(3)
    x[:, 5] = 0
    for alpha in (0.0, 0.5, 1.0):
        scale = awq.channel_scales(inputs_of(x), alpha)
        assert torch.isfinite(scale).all()
        assert (scale > 0).all()
    found = awq.search([awq.Matrix(weight, INT4)], inputs_of(x))
    assert found.loss <= found.plain_loss


def test_inputs_of_zeros_give_no_scale() -> None:
    weight, x = case(4)
    found = awq.search([awq.Matrix(weight, INT4)], inputs_of(x * 0))
    assert (found.alpha, found.loss) == (0.0, 0.0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([INT4, INT8]), st.integers(1, 3))
def test_a_search_never_loses_more_than_no_scale(seed: int, scheme: Scheme, count: int) -> None:
    pairs = [case(seed + index) for index in range(count)]
    matrices = [awq.Matrix(weight, scheme) for weight, _ in pairs]
    found = awq.search(matrices, inputs_of(pairs[0][1]))
    assert found.loss <= found.plain_loss
    assert found.alpha or (found.scale == 1).all()


def test_outlier_channels_gain_from_a_scale() -> None:
    weight, x = case(5)
    x[:, 7] *= 100
    found = awq.search([awq.Matrix(weight, INT4)], inputs_of(x))
    assert found.alpha > 0
    assert found.loss < 0.7 * found.plain_loss


def test_a_sample_of_rows_decides_but_all_rows_judge() -> None:
    weight, x = case(6, rows=4 * awq.SAMPLE)
    found = awq.search([awq.Matrix(weight, INT4)], inputs_of(x))
    (all_rows,) = awq.total_losses([awq.Matrix(weight, INT4)], inputs_of(x), [found.scale], True)
    assert np.isclose(found.loss, all_rows)


def test_scales_are_judged_together_as_one_by_one() -> None:
    weight, x = case(8)
    inputs, matrices = with_gptq(x), [awq.Matrix(weight, INT4), awq.Matrix(weight[:9] * 2, INT8)]
    scales = [awq.channel_scales(inputs, alpha) for alpha in (0.0, 0.3, 0.6)]
    together = awq.total_losses(matrices, inputs, scales, True)
    alone = [awq.total_losses(matrices, inputs, [scale], True)[0] for scale in scales]
    assert np.allclose(together, alone, rtol=1e-5)


def with_gptq(x: torch.Tensor) -> awq.Inputs:
    """Inputs for which GPTQ rounds, at a damping that matters little."""
    plain = inputs_of(x)
    order = torch.argsort(plain.hessian.diagonal(), descending=True, stable=True)
    factor, _ = inverse_factor(plain.hessian, 1e-4, order)
    return dataclasses.replace(plain, order=order, factor=factor)


def test_gptq_on_scaled_weights_is_gptq_with_steps_divided_by_the_scale() -> None:
    weight, x = case(7)
    inputs = with_gptq(x)
    scale = awq.channel_scales(inputs, 0.4)
    (loss,) = awq.total_losses([awq.Matrix(weight, INT4)], inputs, [scale], True)
    hessian = inputs.hessian / torch.outer(scale, scale)
    importance = (inputs.hessian.diagonal() / scale**2).numpy()
    nearest = quantize((weight * scale).numpy(), INT4, True, importance)
    steps = torch.from_numpy(nearest.scales).repeat_interleave(32, dim=1)
    order = inputs.order
    assert order is not None
    factor, _ = inverse_factor(hessian, 1e-6, order)
    codes = round_columns((weight * scale)[:, order], factor, steps[:, order], INT4)
    error = (weight * scale)[:, order] - codes * steps[:, order]
    wanted = float(((error @ hessian[order][:, order]) * error).sum())
    assert np.isclose(loss, wanted, rtol=0.05)


def test_a_search_for_gptq_never_loses_more_than_gptq_without_a_scale() -> None:
    for seed in range(4):
        weight, x = case(seed)
        found = awq.search([awq.Matrix(weight, INT4)], with_gptq(x))
        nearest = awq.search([awq.Matrix(weight, INT4)], inputs_of(x))
        assert found.loss <= found.plain_loss
        assert found.loss < nearest.loss
