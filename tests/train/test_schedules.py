"""Learning rates: properties that hold for any run."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.train.options import parse
from edgecompile.train.schedules import DECAYS, rate

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
names = st.sampled_from(sorted(DECAYS))
totals = st.integers(1, 500)
shares = st.floats(0, 1)


def rates(total: int, **table: Any) -> list[float]:
    options = parse({"lr": 0.5, **table})
    return [rate(options, step, total) for step in range(total)]


@given(names, totals, shares, shares)
def test_no_rate_is_above_lr_or_below_zero(
    name: str, total: int, warmup: float, end: float
) -> None:
    found = rates(total, schedule=name, warmup=warmup, final_lr=end)
    assert all(0 <= one <= 0.5 for one in found)


@given(names, totals, shares, shares)
def test_the_first_step_learns(name: str, total: int, warmup: float, end: float) -> None:
    assert rates(total, schedule=name, warmup=warmup, final_lr=end)[0] > 0


@given(names, totals, shares, shares)
def test_the_rate_rises_to_lr_and_never_again(
    name: str, total: int, warmup: float, end: float
) -> None:
    found = rates(total, schedule=name, warmup=warmup, final_lr=end)
    warm = math.ceil(warmup * total)
    rising, falling = found[:warm], found[warm:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert not rising or rising[-1] == 0.5


@given(totals, shares)
def test_a_constant_rate_stays(total: int, warmup: float) -> None:
    found = rates(total, schedule="constant", warmup=warmup)
    assert set(found[math.ceil(warmup * total) :]) <= {0.5}


@pytest.mark.parametrize(
    ("name", "middle"),
    [("linear", 0.275), ("cosine", 0.275), ("exponential", 0.158113883), ("constant", 0.5)],
)
def test_half_way_a_decay_is_where_its_formula_says(name: str, middle: float) -> None:
    found = rates(100, schedule=name, warmup=0.0, final_lr=0.1)
    assert found[50] == pytest.approx(middle)


@pytest.mark.parametrize("name", ["linear", "cosine", "exponential"])
def test_a_decay_ends_near_the_share_that_was_asked_for(name: str) -> None:
    found = rates(1000, schedule=name, warmup=0.1, final_lr=0.1)
    assert found[-1] == pytest.approx(0.05, rel=0.02)
