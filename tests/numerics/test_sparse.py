"""Zeros in matrices: which go, what the rest takes over, and that roundings leave them alone."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from edgecompile.numerics.gptq import Rounding, descend, gptq, pruned_zeros
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme
from edgecompile.numerics.sparse import Pattern, magnitude, output_error, sparsegpt, wanda

HALF, TWO_OF_FOUR = Pattern(0.5), Pattern.parse("2:4")
INT4, INT8 = Scheme(4, 32), Scheme(8, 0)


def correlated(columns: int = 64, tokens: int = 512, seed: int = 0) -> Tensor:
    """x^T x per token of inputs whose channels are mixtures of few, with outliers."""
    chance = torch.Generator().manual_seed(seed)
    few = torch.randn(tokens, columns // 4, generator=chance)
    mixed = few @ torch.randn(columns // 4, columns, generator=chance)
    mixed += 0.3 * torch.randn(tokens, columns, generator=chance)
    mixed[:, ::7] *= 6
    return mixed.T @ mixed / tokens


def weight(rows: int = 48, columns: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
def test_an_n_of_m_pattern_holds_in_every_group(text: str) -> None:
    pattern = Pattern.parse(text)
    for pruned in (
        wanda(weight(), correlated(), pattern),
        sparsegpt(weight(), correlated(), pattern, 0.01, 32)[0],
    ):
        left = (pruned.view(48, -1, pattern.of) != 0).sum(2)
        assert torch.equal(left, torch.full_like(left, pattern.kept))


def test_every_row_of_wanda_has_the_same_number_of_zeros() -> None:
    gone = (wanda(weight(), correlated(), Pattern(0.3)) == 0).sum(1)
    assert gone.tolist() == [19] * 48


def test_sparsegpt_has_the_share_in_every_block_of_columns() -> None:
    pruned, _ = sparsegpt(weight(), correlated(), HALF, 0.01, 16)
    assert (pruned == 0).view(48, 4, 16).sum((0, 2)).tolist() == [48 * 8] * 4


@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern.parse("2:4")])
def test_wandas_choice_is_the_best_of_all_choices_by_its_score(pattern: Pattern) -> None:
    small, hessian = weight(6, 8), correlated(8)
    scores = small.abs() * hessian.diagonal().sqrt()
    kept = wanda(small, hessian, pattern) != 0
    size = pattern.of or 8
    for row, start in itertools.product(range(6), range(0, 8, size)):
        group = scores[row, start : start + size]
        best = max(float(group[list(one)].sum())
                   for one in itertools.combinations(range(size), size // 2))  # fmt: skip
        assert float(group[kept[row, start : start + size]].sum()) == pytest.approx(best)


def test_wanda_changes_no_value_that_stays() -> None:
    before, after = weight(), wanda(weight(), correlated(), HALF)
    assert torch.equal(after[after != 0], before[after != 0])


@pytest.mark.parametrize("pattern", [HALF, TWO_OF_FOUR])
@pytest.mark.parametrize("seed", range(4))
def test_sparsegpt_loses_less_than_wanda_and_wanda_less_than_magnitude(
    pattern: Pattern, seed: int
) -> None:
    before, hessian = weight(seed=seed + 10), correlated(seed=seed)
    ways = (
        sparsegpt(before, hessian, pattern, 0.01, 32)[0], wanda(before, hessian, pattern),
        magnitude(before, pattern),
    )  # fmt: skip
    errors = [output_error(before, after, hessian) for after in ways]
    assert errors == sorted(errors)


def test_one_column_after_the_other_sparsegpt_is_optimal_brain_surgeon() -> None:
    """Where the first column goes, the others move by the closed form (OBS, eq. 3)."""
    before, hessian = weight(4, 8), correlated(8)
    before[:, 0] *= 1e-3  # what costs least goes first
    inverse = torch.linalg.inv(hessian.double())
    expected = before.double() - (before[:, :1].double() / inverse[0, 0]) * inverse[0]
    pruned, _ = sparsegpt(before, hessian, Pattern(1 / 8), 0.0, 8)
    torch.testing.assert_close(pruned.double(), expected, atol=1e-5, rtol=0)


def test_columns_without_input_go_first() -> None:
    hessian = correlated()
    hessian[::2] = 0
    hessian[:, ::2] = 0
    pruned, _ = sparsegpt(weight(), hessian, HALF, 0.01, 64)
    assert (pruned[:, ::2] == 0).all()
    assert (pruned[:, 1::2] != 0).all()


@pytest.mark.parametrize("scheme", [INT4, INT8])
@pytest.mark.parametrize("sweeps", [0, 1])
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_leaves_the_zeros_of_a_pruned_weight_alone(
    scheme: Scheme, sweeps: int, act_order: bool
) -> None:
    pruned, _ = sparsegpt(weight(), correlated(), TWO_OF_FOUR, 0.01, 32)
    how = Rounding(sweeps=sweeps, act_order=act_order)
    codes = gptq(pruned, correlated(), scheme, how).tensor.codes
    assert (codes[(pruned == 0).numpy()] == 0).all()


def test_without_the_zeros_gptq_would_fill_them() -> None:
    """What the rule is for: error compensation alone gives many of them another code."""
    from edgecompile.numerics.gptq import inverse_factor, round_columns

    pruned, hessian = wanda(weight(), correlated(), HALF), correlated()
    factor, _ = inverse_factor(hessian, 0.01, torch.arange(64))
    steps = torch.from_numpy(quantize(pruned.numpy(), INT4).scales).repeat_interleave(32, 1)
    filled = round_columns(pruned, factor, steps, INT4)
    assert float((filled[pruned == 0] != 0).float().mean()) > 0.2


@pytest.mark.parametrize("scheme", [INT4, INT8])
@pytest.mark.parametrize("search", [True, False])
def test_rounding_to_nearest_gives_zeros_code_0(scheme: Scheme, search: bool) -> None:
    pruned = magnitude(weight(), HALF)
    tensor = quantize(pruned.numpy(), scheme, search)
    assert (tensor.codes[(pruned == 0).numpy()] == 0).all()


def test_a_descent_that_may_not_touch_zeros_still_never_loses() -> None:
    pruned, hessian = wanda(weight(), correlated(), HALF), correlated()
    tensor = quantize(pruned.numpy(), INT4)
    steps = torch.from_numpy(tensor.scales).repeat_interleave(32, 1)
    codes = torch.from_numpy(tensor.codes).float()
    moved = descend(pruned, hessian, codes, steps, INT4, pruned_zeros(pruned))
    before = output_error(pruned, codes * steps, hessian)
    assert output_error(pruned, moved * steps, hessian) < before


def test_a_weight_that_was_not_pruned_has_no_zeros_to_keep() -> None:
    trained = weight(256, 256)
    four_bits = torch.from_numpy(quantize(trained.numpy(), INT4).dequantize())
    assert pruned_zeros(trained) is None
    assert pruned_zeros(four_bits) is None


def test_equal_scores_go_from_the_left() -> None:
    assert wanda(torch.ones(1, 4), torch.eye(4), TWO_OF_FOUR).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("text", ["4:2", "0:4", "4", "2:4:8", "a:b", "4:4", ""])
def test_a_pattern_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not N:M"):
        Pattern.parse(text)


def test_a_pattern_knows_its_share() -> None:
    assert Fraction(Pattern.parse("1:4").share) == Fraction(3, 4)
