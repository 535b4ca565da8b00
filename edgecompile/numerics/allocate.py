"""Spend bits where they matter: one width a tensor, the least loss within a budget of bytes."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 20_000  # the budget above the smallest sizes is divided into so many units


@dataclass(frozen=True)
class Choice:
    """One width of a tensor: what it takes and what it loses."""

    bits: int
    size: int  # bytes
    loss: float


def allocate(choices: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, int]:
    """Bits by tensor with the least sum of losses whose sizes add up to at most `budget` bytes.

    The multiple-choice knapsack by dynamic programming over bytes in units of budget / STEPS;
    sizes are rounded up to units, so the budget holds and the loss is the least but for a unit a
    tensor. Raises ValueError with both numbers where even the smallest choices do not fit.
    """
    smallest = {name: min(options, key=lambda c: c.size) for name, options in choices.items()}
    least = sum(choice.size for choice in smallest.values())
    room = budget - least
    if room < 0:
        raise ValueError(f"the smallest widths take {least} bytes of {budget}")
    unit = max(1, -(-room // STEPS))
    best = np.zeros(room // unit + 1)  # least loss so far with at most that many units
    taken = np.zeros((len(choices), len(best)), np.int16)
    for row, (name, options) in enumerate(choices.items()):
        tried = np.full((len(options), len(best)), np.inf)
        for column, option in enumerate(options):
            units = -(-(option.size - smallest[name].size) // unit)
            if units < len(best):
                tried[column, units:] = best[: len(best) - units] + option.loss
        taken[row] = tried.argmin(axis=0)
        best = tried.min(axis=0)
    return _walked_back(choices, smallest, taken, unit)


def _walked_back(
    choices: Mapping[str, Sequence[Choice]], smallest: Mapping[str, Choice],
    taken: np.ndarray[tuple[int, int], np.dtype[np.int16]], unit: int,
) -> dict[str, int]:  # fmt: skip
    """The choices that led to the last entry of the table."""
    bits: dict[str, int] = {}
    left = taken.shape[1] - 1
    for row, (name, options) in reversed(list(enumerate(choices.items()))):
        option = options[int(taken[row, left])]
        bits[name] = option.bits
        left -= -(-(option.size - smallest[name].size) // unit)
    return {name: bits[name] for name in choices}
