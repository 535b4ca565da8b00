"""What one release lost beyond another, by the samples of both; a loss is above 0."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgecompile.statistics import exact
from edgecompile.statistics.evidence import Bounds, Evidence, Mean, Share
from edgecompile.statistics.exact import Float64, Int64


@dataclass(frozen=True, eq=False)
class Growth(Evidence):
    """How much e to the mean of `values` exceeds 1: of log perplexities, what they grew by."""

    values: Float64
    groups: Int64

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """Those of the mean, exponentially."""
        low, high = Mean(self.values, self.groups, True).bounds(low_error, high_error, seed)
        return low - 1, high - 1


@dataclass(frozen=True, eq=False)
class Counted(Evidence):
    """A mean of pseudo-values of something that counts `least` things, `scale` at most each.

    Where leaving samples out changes nothing, 3 / least at 5 % still may be lost.
    """

    values: Float64
    groups: Int64
    least: int

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """Those of the mean, no narrower than what so few things can show."""
        low, high = Mean(self.values, self.groups).bounds(low_error, high_error, seed)
        value = float(np.mean(self.values))
        below, above = (exact.upper(0, self.least, p) for p in (low_error, high_error))
        return min(low, value - below), max(high, value + above)


@dataclass(frozen=True, eq=False)
class Changed(Evidence):
    """`values` are 1 where a sample was lost, -1 where it was won, else 0; over `per`.

    Either share is bounded exactly, with the effective number of samples and half of the error.
    """

    values: Float64
    groups: Int64
    per: float = 1.0

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """Of lost less won."""
        if not self.per or not len(self.values):
            return -math.inf, math.inf
        lost = Share((self.values > 0).astype(float), self.groups)
        won = Share((self.values < 0).astype(float), self.groups)
        low = lost.bounds(low_error / 2, 1.0)[0] - won.bounds(1.0, low_error / 2)[1]
        high = lost.bounds(1.0, high_error / 2)[1] - won.bounds(high_error / 2, 1.0)[0]
        return low / self.per, high / self.per


@dataclass(frozen=True, eq=False)
class Apart(Evidence):
    """The second value less the first, of samples that have nothing in common.

    Each side's bounds have half of the error (Bonferroni); `sign` -1 where higher is better.
    """

    first: Evidence
    second: Evidence
    sign: int = 1
    ratio: bool = False  # the second over the first, less 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.second.values)
        object.__setattr__(self, "groups", self.second.groups)

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """By the worst of one side beside the best of the other."""
        errors = (low_error / 2, high_error / 2)
        low, high = errors if self.sign > 0 else errors[::-1]
        second = self.second.bounds(low, high, seed)
        first = self.first.bounds(high, low, seed)
        if self.ratio:
            return second[0] / first[1] - 1, second[1] / max(first[0], 1e-300) - 1
        ends = self.sign * (second[0] - first[1]), self.sign * (second[1] - first[0])
        return min(ends), max(ends)
