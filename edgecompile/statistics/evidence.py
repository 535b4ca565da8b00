"""The samples behind a metric's value, and how they bound it: one class a kind of metric."""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecompile.statistics import exact, resampled
from edgecompile.statistics.exact import Discordant, Float64, Int64

Bounds = tuple[float, float]
MOST_TIMES = 1 << 20  # as many samples again as `needed` looks for


class Evidence(ABC):
    """Samples of one metric; `groups` int64 [samples] says which depend on each other."""

    values: Float64  # [samples]: what a baseline keeps
    groups: Int64

    @abstractmethod
    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """The true value lies below the first, and above the second, with these probabilities."""

    def times(self, bound: float, value: float, limit: float) -> float:
        """How many times the samples would bound the value at `limit`: widths shrink as 1/sqrt."""
        if not abs(limit - value) > 0:
            return math.inf
        return ((bound - value) / (limit - value)) ** 2


@dataclass(frozen=True, eq=False)
class Mean(Evidence):
    """The mean of `values`; with `exponential` e to its power (a ratio of perplexities)."""

    values: Float64
    groups: Int64
    exponential: bool = False

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """By the studentized bootstrap over groups."""
        low, high = resampled.mean_bounds(self.values, self.groups, low_error, high_error, seed)
        return (_exp(low), _exp(high)) if self.exponential else (low, high)


@dataclass(frozen=True, eq=False)
class Share(Evidence):
    """The share of `values`, 0 or 1 each."""

    values: Float64
    groups: Int64

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """Clopper and Pearson's, with the effective number of samples."""
        n = exact.effective(self.values, self.groups)
        hits = float(np.mean(self.values)) * n
        return exact.lower(hits, n, low_error), exact.upper(hits, n, high_error)


@dataclass(frozen=True, eq=False)
class Tail(Evidence):
    """The value that a `share` of the samples is worse than.

    Its bounds are samples themselves, or infinite where there are too few: the ranks that bound the
    share of samples beyond them (Woodruff 1952), with the effective number of samples.
    """

    values: Float64
    groups: Int64
    share: float
    better: Literal["higher", "lower"]

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """At most `share` lies beyond a limit just when the bound on that side is within it."""
        if self.better == "lower":
            return self._ends(self.values, low_error, high_error)
        low, high = self._ends(-self.values, high_error, low_error)
        return -high, -low

    def _ends(self, values: Float64, low_error: float, high_error: float) -> Bounds:
        """Bounds of the quantile 1 - share."""
        falling = -np.sort(-values)
        low, high = -math.inf, math.inf
        for limit in falling[: _window(len(values), self.share)]:
            beyond = (values > limit).astype(float)
            n = exact.effective(beyond, self.groups)
            hits = float(np.mean(beyond)) * n
            if exact.upper(hits, n, high_error) <= self.share:
                high = float(limit)
            if exact.lower(hits, n, low_error) > self.share:
                low = float(limit)
                break
        return low, high

    def times(self, bound: float, value: float, limit: float) -> float:
        """By the share of samples beyond the limit, as it is in these."""
        worse = self.values > limit if self.better == "lower" else self.values < limit
        return _times_of_share(float(np.mean(worse)), len(self.values), self.share)


@dataclass(frozen=True, eq=False)
class Paired(Evidence):
    """The ratio of two rates of right answers [samples] to the same questions, 0 or 1 each."""

    source: Float64
    values: Float64
    groups: Int64

    @property
    def discordant(self) -> Discordant:
        """The pairs that differ."""
        lost = int(np.count_nonzero(self.source > self.values))
        won = int(np.count_nonzero(self.source < self.values))
        return Discordant(lost, won, len(self.values))

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """1 - loss / the source's rate, the loss bounded exactly by discordant pairs.

        The source's rate is that of these samples: how it varies moves a limit by far less.
        """
        rate = float(np.mean(self.source)) if len(self.source) else 0.0
        if not rate or np.isnan(self.values).any():
            return -math.inf, math.inf
        low, high = self.discordant.bounds(high_error, low_error)
        return 1 - high / rate, 1 - low / rate


Statistic = Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True, eq=False)
class Function(Evidence):
    """Any statistic of chosen samples; `scale` is where its errors are alike on both sides.

    `smallest` > 0 says that the statistic counts, over so many things: where leaving any samples
    out changes nothing, 3 / smallest at 5 % still may be wrong.
    """

    values: Float64
    groups: Int64
    statistic: Statistic
    scale: Literal["as it is", "log", "fisher"] = "as it is"
    smallest: int = 0

    def bounds(self, low_error: float, high_error: float, seed: int = 0) -> Bounds:
        """By the jackknife over groups, and Student's t."""
        to, back = _SCALES[self.scale]
        whole, error, count = resampled.jackknife(
            lambda kept: to(self.statistic(kept)), self.groups, seed
        )
        low, high = resampled.student_bounds(whole, error, count, low_error, high_error)
        low, high = back(low), back(high)
        if not self.smallest:
            return low, high
        value = self.statistic(np.arange(len(self.groups)))
        least = [value * exact.upper(0, self.smallest, p) for p in (low_error, high_error)]
        return min(low, value - least[0]), max(high, value + least[1])


def _window(n: int, share: float) -> int:
    """Ranks that can bound a quantile: ten standard deviations around it."""
    return min(n, math.ceil(n * share + 10 * math.sqrt(n * share)) + 10)


def _times_of_share(found: float, n: int, share: float) -> float:
    """How many times n samples prove that at most `share` is beyond, if `found` of them are."""
    if found >= share:
        return math.inf
    times = 1.0
    while exact.upper(found * n * times, n * times, 0.05) > share and times < MOST_TIMES:
        times *= 1.1
    return times


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _logit(value: float) -> float:
    return math.atanh(value) if -1 < value < 1 else math.copysign(18.0, value)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _same(value: float) -> float:
    return value


_SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "as it is": (_same, _same), "log": (_log, _exp), "fisher": (_logit, math.tanh),
}  # fmt: skip
