"""Exact bounds of shares: Clopper-Pearson, for samples that depend, and for paired answers."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def lower(hits: float, samples: float, error: float) -> float:
    """The share that is exceeded but with probability `error` (Clopper and Pearson 1934).

    Hits and samples may be fractions: effective numbers of samples that depend on each other.
    """
    from scipy.special import betaincinv

    return float(betaincinv(hits, samples - hits + 1, error)) if hits > 0 else 0.0


def upper(hits: float, samples: float, error: float) -> float:
    """The share that is not reached but with probability `error`; 3 / n of no hit at 5 %."""
    return 1.0 - lower(samples - hits, samples, error)


def effective(hits: Float64, groups: Int64) -> float:
    """The independent samples that a share of grouped ones [n] is worth, at most n.

    n over the design effect, the variance of the share between groups (linearized) to that of
    independent samples, as in Korn and Graubard (1998). Without a hit, or a miss, nothing shows
    the groups' dependence: then n.
    """
    n, share = len(hits), float(np.mean(hits)) if len(hits) else 0.0
    if not 0.0 < share < 1.0:
        return float(n)
    numbers, inverse = np.unique(groups, return_inverse=True)
    if len(numbers) in (1, n):
        return float(n)
    residuals = np.bincount(inverse, hits - share)
    count = len(numbers)
    between = count / (count - 1) * float(residuals @ residuals) / n**2
    return n / max(1.0, between / (share * (1 - share) / n))


def chi_square_p(counts: Float64, expected: Float64) -> float:
    """Pearson's test (1900) that counts [n] are drawn as `expected` [n], which add up alike."""
    from scipy.special import chdtrc

    value = float(((counts - expected) ** 2 / expected).sum())
    return float(chdtrc(len(counts) - 1, value))


@dataclass(frozen=True)
class Discordant:
    """Paired right and wrong answers: how many changed, either way, of how many."""

    lost: int  # the source's was right, the other's is wrong
    won: int
    samples: int

    @property
    def loss(self) -> float:
        """The share of right answers that went."""
        return (self.lost - self.won) / self.samples if self.samples else float("nan")

    def bounds(self, low_error: float, high_error: float) -> tuple[float, float]:
        """The loss lies below, and above, with at most these probabilities.

        Half of each is spent on either share of discordant pairs (Bonferroni), bounded exactly.
        """
        n = self.samples
        low = lower(self.lost, n, low_error / 2) - upper(self.won, n, low_error / 2)
        high = upper(self.lost, n, high_error / 2) - lower(self.won, n, high_error / 2)
        return low, high

    @property
    def p_value(self) -> float:
        """McNemar's exact test (1947) that neither way is likelier; two-sided."""
        from scipy.special import bdtr

        total = self.lost + self.won
        return min(1.0, 2 * float(bdtr(min(self.lost, self.won), total, 0.5))) if total else 1.0
