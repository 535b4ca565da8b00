from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.metrics import Measurement, accuracy, cosine, cost, error, kl, rank, tokens, worst
from edgecompile.metrics.logits import TokenRows, compared_window, log_softmax
from edgecompile.metrics.logits import measure as of_tokens

RNG = np.random.default_rng(7)


def of_one(rows: TokenRows) -> tuple[Measurement, ...]:
    """Of one window of one document."""
    return of_tokens([(rows, np.zeros(len(rows.kl), np.int64))])


def by_name(measurements: tuple[Measurement, ...]) -> dict[str, float]:
    return {m.metric: m.value for m in measurements}


def test_nan_is_within_no_limit() -> None:
    nan = Measurement("m", math.nan, "", "lower", 1)
    assert not nan.within(1.0)
    assert not Measurement("m", 0.5, "", "lower", 1).within(math.nan)
    assert not Measurement("m", math.nan, "", "higher", 1).within(-math.inf)


def test_a_value_on_the_limit_is_within_and_one_step_beyond_is_not() -> None:
    limit = 0.95
    assert Measurement("m", limit, "", "higher", 1).within(limit)
    assert not Measurement("m", math.nextafter(limit, 0), "", "higher", 1).within(limit)
    assert not Measurement("m", math.nextafter(limit, 1), "", "lower", 1).within(limit)


def test_worst_is_a_sample_on_the_bad_side() -> None:
    values = np.arange(100, dtype=np.float64)
    assert worst(values, 0.01, "higher") == 0.0
    assert worst(values, 0.01, "lower") == 99.0
    assert math.isnan(worst(np.array([1.0, math.nan]), 0.5, "lower"))
    assert math.isnan(worst(np.empty(0), 0.5, "lower"))


def test_cosine_of_a_turned_a_scaled_and_a_zero_vector() -> None:
    source = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    found = np.array([[0.0, 2.0], [3.0, 3.0], [0.0, 0.0]])
    values = cosine.cosines(source, found)
    assert values[:2] == pytest.approx([0.0, 1.0])
    assert math.isnan(values[2])
    assert math.isnan(by_name(cosine.measure(values))["cosine_mean"])


def test_rank_correlation_sees_order_alone() -> None:
    values = RNG.normal(size=50)
    assert rank.spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert rank.spearman(values, -values) == pytest.approx(-1.0)
    assert list(rank.ranks(np.array([3.0, 1.0, 3.0, 2.0]))) == [2.5, 0.0, 2.5, 1.0]
    assert math.isnan(rank.spearman(values, np.ones(50)))


def test_rank_correlation_equals_scipys_formula_without_ties() -> None:
    a, b = RNG.permutation(30).astype(float), RNG.permutation(30).astype(float)
    distance = ((a - b) ** 2).sum()
    assert rank.spearman(a, b) == pytest.approx(1 - 6 * distance / (30 * (30**2 - 1)))


@given(st.integers(1, 20), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_divergence_is_zero_with_itself_and_positive_else(rows: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = log_softmax(rng.normal(size=(rows, size)).astype(np.float32) * 5)
    q = log_softmax(rng.normal(size=(rows, size)).astype(np.float32) * 5)
    assert kl.divergences(p, p).max() < 1e-12
    assert kl.divergences(p, q).min() >= 0


def test_divergence_of_two_coins() -> None:
    p, q = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl.divergences(p, q) == pytest.approx([expected])


@pytest.mark.parametrize("pieces", [(100, 100), (128, 7), (1, 64)])
def test_streamed_logits_give_the_same_whatever_the_pieces(pieces: tuple[int, int]) -> None:
    ids = RNG.integers(0, 50, 100)
    p = np.random.default_rng(1).normal(size=(100, 50)).astype(np.float32)
    q = p + np.random.default_rng(2).normal(size=(100, 50)).astype(np.float32) * 0.1
    whole = of_one(compared_window(ids, [p], [q]))
    cut = [[x[i : i + n] for i in range(0, 100, n)] for x, n in zip((p, q), pieces, strict=True)]
    streamed = of_one(compared_window(ids, *cut))
    assert by_name(streamed) == pytest.approx(by_name(whole), rel=1e-12)
    assert [m.samples for m in whole] == [100, 100, 100, 100, 99, 99, 99, 100, 100]


def test_perplexity_is_that_of_the_next_token() -> None:
    ids = np.array([0, 1, 2, 1])
    logits = np.zeros((4, 4), np.float32)  # uniform: perplexity 4
    found = by_name(of_one(compared_window(ids, [logits], [logits])))
    assert found["perplexity"] == pytest.approx(4.0)
    assert found["perplexity_ratio"] == 1.0
    assert found["top1_agreement"] == 1.0


def test_logits_that_end_early_or_hold_nan_fail_every_limit() -> None:
    ids, p = np.arange(10), np.zeros((10, 12), np.float32)
    short = compared_window(ids, [p], [p[:9]])
    assert math.isnan(by_name(of_one(short))["kl_mean"])
    q = p.copy()
    q[3, 3] = np.nan
    broken = of_one(compared_window(ids, [p], [q]))
    assert all(math.isnan(v) for k, v in by_name(broken).items() if k != "perplexity_source")


def test_accuracy_is_a_ratio_to_the_source() -> None:
    source = accuracy.hits(["a", "b", "a", "a"], ["a", "b", "a", "b"])
    found = accuracy.hits(["a", "a", "b", "a"], ["a", "b", "a", "b"])
    assert by_name(accuracy.measure(source, found))["accuracy_ratio"] == pytest.approx(1 / 3)
    assert math.isnan(by_name(accuracy.measure(source * 0, found))["accuracy_ratio"])


def test_errors_of_outputs_need_equal_shapes() -> None:
    assert error.relative_error([3.0, 4.0], [3.0, 9.0]) == pytest.approx(1.0)
    assert error.absolute_error([3.0, 4.0], [3.0, 9.0]) == 5.0
    assert math.isnan(error.relative_error([1.0], [[1.0]]))
    assert error.relative_error([0.0], [0.0]) == 0.0
    assert error.relative_error([0.0], [1.0]) == math.inf


def test_token_ids_are_compared_one_by_one() -> None:
    assert tokens.differing([[1, 2], [], [3]], [[1, 2], [], [4]]) == (2,)
    assert tokens.differing([[1], [2]], [[1]]) == (0, 1)
    assert math.isnan(tokens.measure(0, 0).value)


def test_a_bundle_of_one_byte_a_parameter_is_half_of_float16() -> None:
    assert cost.gain(135_000_000, 135_000_000).value == 0.5
    assert math.isnan(cost.gain(1, 0).value)


def test_metrics_import_no_framework() -> None:
    code = (
        "import sys, importlib, pkgutil, edgecompile.metrics as m\n"
        "[importlib.import_module(f'edgecompile.metrics.{x.name}') for x in "
        "pkgutil.iter_modules(m.__path__)]\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
