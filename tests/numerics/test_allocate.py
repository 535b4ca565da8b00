"""The solver: never over the budget, never worse than any other choice within it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.numerics.allocate import Choice, allocate

tensors = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 50), st.floats(0, 10), st.floats(0, 1)),
    min_size=1, max_size=6,
)  # fmt: skip


def choices(rows: list[tuple[int, int, float, float]]) -> dict[str, list[Choice]]:
    """Four bits cost more than eight and take less."""
    return {
        f"t{number}": [Choice(4, size, loss + kept), Choice(8, size + more, kept)]
        for number, (size, more, loss, kept) in enumerate(rows)
    }


def total(table: dict[str, list[Choice]], bits: dict[str, int], what: str) -> float:
    picked = (next(c for c in table[name] if c.bits == b) for name, b in bits.items())
    return sum(getattr(choice, what) for choice in picked)


@settings(deadline=None)
@given(tensors, st.integers(0, 300))
def test_no_other_choice_within_the_budget_loses_less(
    rows: list[tuple[int, int, float, float]], room: int
) -> None:
    table = choices(rows)
    budget = sum(options[0].size for options in table.values()) + room
    found = allocate(table, budget)
    widths = itertools.product((4, 8), repeat=len(table))
    everything = (dict(zip(table, bits, strict=True)) for bits in widths)
    allowed = [bits for bits in everything if total(table, bits, "size") <= budget]
    least = min(total(table, bits, "loss") for bits in allowed)
    assert total(table, found, "size") <= budget, "size"
    assert total(table, found, "loss") <= least + 1e-9, "loss"


def test_a_budget_below_the_smallest_sizes_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="take 10 bytes of 9"):
        allocate({"a": [Choice(4, 10, 1.0)]}, 9)


def test_a_large_budget_is_kept_though_sizes_are_rounded_to_units() -> None:
    table = {f"t{i}": [Choice(4, 10**6, 1.0), Choice(8, 2 * 10**6 + i, 0.0)] for i in range(200)}
    budget = 300 * 10**6
    assert total(table, allocate(table, budget), "size") <= budget
