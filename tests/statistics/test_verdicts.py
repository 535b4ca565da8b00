"""Verdicts on planted losses, how often they are wrong, and what the looks may spend."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.metrics import Measurement, accuracy
from edgecompile.statistics.evidence import Mean
from edgecompile.statistics.looks import FAIL_ERROR, PASS_ERROR, planned
from edgecompile.statistics.verdicts import Errors, weigh


def answers(samples: int, drop: float, discordant: float, seed: int) -> Measurement:
    """Accuracies of two models: `drop` of the right answers go, `discordant` pairs change sides."""
    rng = np.random.default_rng(seed)
    source = (rng.random(samples) < 0.9).astype(float)
    found = source.copy()
    changed = rng.choice(samples, round(discordant * samples), replace=False)
    found[changed] = np.arange(len(changed)) % 2  # half become right, half wrong
    source[changed] = 1 - found[changed]
    right = np.flatnonzero((source == 1) & (found == 1))
    found[rng.choice(right, round(drop * samples), replace=False)] = 0
    return accuracy.measure(source, found)[0]


@pytest.mark.parametrize("seed", range(10))
def test_a_drop_of_half_a_percent_is_unproven_on_1000_samples(seed: int) -> None:
    assert weigh(answers(1000, 0.005, 0.001, seed), 0.999, Errors()).verdict == "unproven"


@pytest.mark.parametrize("seed", range(10))
def test_a_drop_of_half_a_percent_fails_on_20000(seed: int) -> None:
    assert weigh(answers(20_000, 0.005, 0.001, seed), 0.999, Errors()).verdict == "fail"


@pytest.mark.parametrize("seed", range(10))
def test_no_drop_passes_on_20000(seed: int) -> None:
    assert weigh(answers(20_000, 0.0, 0.001, seed), 0.999, Errors()).verdict == "pass"


def test_an_open_verdict_says_how_many_samples_would_decide() -> None:
    found = weigh(answers(1000, 0.0, 0.001, 0), 0.999, Errors())
    assert found.verdict == "unproven"
    assert "1,000 samples leave [" in found.why


def test_a_value_far_within_its_limit_names_the_samples_of_a_stricter_one() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.4, 400)
    measured = Measurement("kl_mean", float(values.mean()), "nats", "lower", 400,
                           Mean(values, np.arange(400)))  # fmt: skip
    assert weigh(measured, 0.4, Errors()).needed == 0  # these prove 0.2 already
    few = Measurement("kl_mean", float(values[:40].mean()), "nats", "lower", 40,
                      Mean(values[:40], np.arange(40)))  # fmt: skip
    assert weigh(few, 0.2, Errors()).needed > 40


@given(st.integers(1, 5000), st.integers(1, 50_000), st.integers(1, 12))
def test_looks_spend_no_more_than_there_is(asked: int, available: int, metrics: int) -> None:
    looks = planned(asked, available, metrics)
    numbers = range(len(looks.sizes))
    assert sum(looks.pass_error(n) for n in numbers) == pytest.approx(PASS_ERROR)
    assert sum(looks.fail_error(n) for n in numbers) * metrics == pytest.approx(FAIL_ERROR)
    assert list(looks.sizes) == sorted(set(looks.sizes))
    assert looks.sizes[-1] == min(4 * asked, available)


def test_a_look_that_adds_less_than_half_is_left_out() -> None:
    assert planned(256, 367).sizes == (367,)
    assert planned(4096, 100_000).sizes == (4096, 8192, 16384)
    assert planned(4096, 1000).sizes == (1000,)


def test_peeking_does_not_raise_the_rate_of_wrong_passes() -> None:
    """A loss just on the limit, looked at three times: at most 5 % of the checks pass it."""
    rng, passed = np.random.default_rng(0), 0
    looks = planned(250, 1000)
    for _ in range(400):
        source = np.ones(1000)
        found = (rng.random(1000) >= 0.02).astype(float)
        for number, size in enumerate(looks.sizes):
            one = accuracy.measure(source[:size], found[:size])[0]
            errors = Errors(looks.pass_error(number), looks.fail_error(number))
            if weigh(one, 0.98, errors).verdict == "pass":
                passed += 1
                break
    assert passed / 400 <= 0.06
