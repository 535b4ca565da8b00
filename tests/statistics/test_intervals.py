"""Do the intervals hold what they say? By simulation, and against scipy."""
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgecompile.statistics import exact, resampled
from edgecompile.statistics.evidence import Function, Mean, Paired, Share, Tail


def alone(count: int) -> np.ndarray:
    return np.arange(count)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.001, 0.2))
def test_bounds_of_a_share_are_clopper_and_pearsons(hits: int, more: int, error: float) -> None:
    count = hits + more
    found = binomtest(hits, count).proportion_ci(1 - 2 * error, "exact")
    assert exact.lower(hits, count, error) == pytest.approx(found.low, abs=1e-9)
    assert exact.upper(hits, count, error) == pytest.approx(found.high, abs=1e-9)


def test_no_hit_of_n_bounds_the_share_at_three_in_n() -> None:
    assert exact.upper(0, 300, 0.05) == pytest.approx(3 / 300, rel=0.01)


def test_pairs_that_all_agree_still_leave_a_loss_possible() -> None:
    same = np.ones(1000)
    low, _ = Paired(same, same, alone(1000)).bounds(0.05, 0.05)
    assert low == pytest.approx(1 - 3.69 / 1000, abs=1e-4)  # half of 5 %: -ln 0.025


def test_the_exact_test_of_pairs_is_mcnemars() -> None:
    found = exact.Discordant(lost=12, won=3, samples=400)
    assert found.p_value == pytest.approx(binomtest(3, 15).pvalue)
    assert found.loss == pytest.approx(9 / 400)


def test_samples_of_one_document_count_as_one() -> None:
    hits = np.repeat((np.arange(40) < 8).astype(float), 25)  # 40 documents, all of one kind each
    assert exact.effective(hits, np.repeat(alone(40), 25)) == pytest.approx(40, rel=0.05)
    assert exact.effective(hits, alone(1000)) == 1000


@pytest.mark.parametrize(("documents", "skew"), [(12, 0.5), (60, 1.0)])
def test_the_bootstrap_covers_skewed_means_of_documents(documents: int, skew: float) -> None:
    rng = np.random.default_rng(1)
    wrong = np.zeros(2)
    for seed in range(100):
        of = np.repeat(alone(documents), 5)
        shared = np.exp(skew * rng.normal(size=documents))
        values = shared[of] * np.exp(0.5 * rng.normal(size=len(of)))
        truth = math.exp(skew**2 / 2 + 0.125)
        low, high = resampled.mean_bounds(values, of, 0.05, 0.05, seed)
        wrong += [low > truth, high < truth]
    assert wrong.max() / 100 < 0.13  # 5 % each; a normal interval misses 25 % above at these


def test_one_document_bounds_nothing() -> None:
    assert resampled.mean_bounds(np.arange(9.0), np.zeros(9, int), 0.05, 0.05, 0) == (
        -math.inf, math.inf,
    )  # fmt: skip


def test_a_tail_is_bounded_by_samples_and_not_at_all_by_few() -> None:
    values = np.arange(1000.0)
    low, high = Tail(values, alone(1000), 0.01, "lower").bounds(0.05, 0.05)
    assert 980 <= low < 990 < high <= 999
    assert Tail(values[:200], alone(200), 0.01, "lower").bounds(0.05, 0.05)[1] == math.inf


def test_the_bound_of_a_tail_is_a_test_of_the_share_beyond_the_limit() -> None:
    values = np.concatenate([np.zeros(397), np.full(3, 5.0)])  # three of 400 are beyond
    _, high = Tail(values, alone(400), 0.02, "lower").bounds(0.05, 0.05)
    assert (high <= 1.0) == (exact.upper(3, 400, 0.05) <= 0.02)
    mirrored = Tail(-values, alone(400), 0.02, "higher").bounds(0.05, 0.05)
    assert mirrored[0] == -high


def test_tails_of_a_known_distribution_are_covered() -> None:
    rng, wrong = np.random.default_rng(3), np.zeros(2)
    truth = -math.log(0.01)  # the 99th percentile of an exponential
    for _ in range(300):
        low, high = Tail(rng.exponential(size=2000), alone(2000), 0.01, "lower").bounds(0.05, 0.05)
        wrong += [low > truth, high < truth]
    assert wrong.max() / 300 < 0.09


def test_the_jackknife_covers_a_correlation() -> None:
    rng, wrong = np.random.default_rng(5), np.zeros(2)
    for seed in range(150):
        a = rng.normal(size=120)
        b = 0.8 * a + 0.6 * rng.normal(size=120)

        def correlation(kept: np.ndarray, a: np.ndarray = a, b: np.ndarray = b) -> float:
            return float(np.corrcoef(a[kept], b[kept])[0, 1])

        low, high = Function(a, alone(120), correlation, "fisher").bounds(0.05, 0.05, seed)
        wrong += [low > 0.8, high < 0.8]
    assert wrong.max() / 150 < 0.12


def test_a_count_that_nothing_changes_is_still_no_certainty() -> None:
    never = Function(np.zeros(50), alone(50), lambda kept: 1.0, smallest=600)
    assert never.bounds(0.05, 0.05)[0] == pytest.approx(1 - 3 / 600, abs=2e-4)


def test_a_ratio_of_perplexities_is_bounded_as_one() -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.1, 4000)
    low, high = Mean(differences, alone(4000), exponential=True).bounds(0.05, 0.05)
    assert low < math.exp(differences.mean()) < high < math.exp(0.02)


def test_a_share_without_a_miss_is_bounded_exactly() -> None:
    assert Share(np.ones(300), alone(300)).bounds(0.05, 0.05)[0] == pytest.approx(0.05 ** (1 / 300))


def test_values_that_differ_in_the_eighth_digit_are_bounded_there() -> None:
    values = 1 - np.random.default_rng(0).random(320) * 1e-7
    low, high = resampled.mean_bounds(values, alone(320), 0.05, 0.01, 0)
    assert 1 - 1e-7 < low < values.mean() < high < 1
