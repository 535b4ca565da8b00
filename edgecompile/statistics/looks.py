"""How many samples are drawn, at looks fixed in advance, and what each look may spend.

A check is wrong in two ways. It passes what breaks a limit: at most PASS_ERROR for each metric,
over all looks (all metrics must pass, so nothing is divided among them). It fails what keeps every
limit: at most FAIL_ERROR over all looks and metrics together. Each look spends a part of both, by
the sum of which the rates are kept whatever the looks have in common (Bonferroni).
"""
from __future__ import annotations

import math
from dataclasses import dataclass

PASS_ERROR, FAIL_ERROR = 0.05, 0.01
FACTOR = 4  # times as many samples as were asked for, at most
# Kim and DeMets (1987): alpha t^3 spends little before the last look, near O'Brien and Fleming's.
POWER = 3


@dataclass(frozen=True)
class Looks:
    """Samples in all at each look, ascending; `metrics` are those that share FAIL_ERROR."""

    sizes: tuple[int, ...]
    metrics: int = 1

    def pass_error(self, look: int) -> float:
        """What look number `look` (from 0) may spend on passing wrongly."""
        share, before = self._share(look), self._share(look - 1) if look else 0.0
        return PASS_ERROR * (share**POWER - before**POWER)

    def fail_error(self, look: int) -> float:
        """What it may spend on failing one metric wrongly: even, so that ruin is seen at once."""
        share, before = self._share(look), self._share(look - 1) if look else 0.0
        return FAIL_ERROR * (share - before) / self.metrics

    def _share(self, look: int) -> float:
        return self.sizes[look] / self.sizes[-1]


def planned(asked: int, available: int, metrics: int = 1) -> Looks:
    """Looks at what was asked for, twice it and four times it, as far as samples are there.

    A look that adds less than half is none; what is there is all used.
    """
    most = max(1, min(asked * FACTOR, available))
    steps = max(0, math.floor(math.log2(most / asked) + 0.415)) if asked < most else 0
    sizes = [asked * 2**step for step in range(steps)]
    return Looks((*sizes, most), metrics)
