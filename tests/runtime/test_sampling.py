from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgecompile.runtime.errors import EdgecompileError, UsageError
from edgecompile.runtime.sampling import Sampler, SamplingOptions, candidates

LOGITS = hnp.arrays(np.float32, st.integers(1, 600), elements=st.floats(-20, 20, width=16))


def plainly(logits: np.ndarray, options: SamplingOptions) -> set[int]:
    """Candidates the slow, obvious way, as transformers' warpers keep them."""
    order = np.argsort(-logits, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    scaled = logits[order].astype(np.float64) / options.temperature
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    before = np.concatenate([[0.0], np.cumsum(weights)[:-1]])
    kept = ((before < options.top_p) | (options.top_p == 1)) & (
        weights >= options.min_p * weights[0]
    )
    return set(order[kept].tolist())


@given(
    LOGITS,
    st.floats(0.1, 2),
    st.integers(0, 50),
    st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_candidates_are_those_of_the_plain_definition(
    logits: Any, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    options = SamplingOptions(temperature, top_k, top_p, min_p)
    tokens, probabilities = candidates(logits, options)
    expected = plainly(logits, options)
    # Rounding may move the border by one token of nearly no weight, or between equal ones.
    assert abs(len(tokens) - len(expected)) <= 1 + int((logits == logits.max()).sum() > 1) * 600
    assert (np.diff(probabilities) <= 0).all()
    assert tokens[0] == logits.argmax()


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert Sampler(SamplingOptions()).choose(np.float32([1, 3, 3, 2])) == 1


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.float32([0.5, 0.3, 0.2]))
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=3))
    counts = np.bincount([sampler.choose(logits) for _ in range(20_000)], minlength=3)
    assert np.allclose(counts / 20_000, [0.5, 0.3, 0.2], atol=0.012)


def test_one_seed_gives_one_text_and_another_seed_another() -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.choose(logits) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_seen_token_is_penalized_whatever_the_sign_of_its_logit() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0), prompt=[0, 1])
    logits = np.float32([3.0, -1.0, 1.6, -1.5])
    assert [sampler.choose(logits) for _ in range(2)] == [2, 0]
    assert logits.tolist() == np.float32([3.0, -1.0, 1.6, -1.5]).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_choose_nothing(temperature: float) -> None:
    sampler = Sampler(SamplingOptions(temperature=temperature))
    with pytest.raises(EdgecompileError, match="not a number at token 1"):
        sampler.choose(np.float32([3.0, np.nan, 9.0]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_an_option_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingOptions(**wrong)
