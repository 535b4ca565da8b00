"""The smallest change of bits that is predicted to bring broken metrics within their limits."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from edgecompile.checks import sealed
from edgecompile.checks.limits import TABLE, limits_for, own_types, width_of
from edgecompile.explain.search import Unit
from edgecompile.explain.sides import Sides
from edgecompile.explain.subject import FLOAT_BITS, Subject
from edgecompile.explain.yardstick import Distance, Yardstick
from edgecompile.numerics.schemes import Scheme

if TYPE_CHECKING:
    from torch import Tensor

ROW = Scheme(8, 0)  # what a tensor gets that is given 8 bits
MARGIN = 2.0  # standard errors by which a mean is to be within its limit: these are few inputs


@dataclass(frozen=True)
class Upgrade:
    """More bits for one unit: what that is thought to win back, and what it costs in bytes."""

    unit: Unit
    bits: int  # 8, or FLOAT_BITS
    gain: float
    cost: int

    @property
    def worth(self) -> float:
        """Divergence won back per byte; a change that costs nothing comes first."""
        return self.gain / self.cost if self.cost > 0 else math.inf * (self.gain > 0 or -1)


@dataclass(frozen=True)
class Change:
    """Bits by tensor, what they cost, and what the changed model is predicted to give.

    `bits` are empty where nothing has to change or can be: `why` says so then.
    """

    bits: Mapping[str, int] = field(default_factory=dict)
    cost: int = 0
    before: Distance | None = None
    predicted: Distance | None = None
    limits: Mapping[str, float] = field(default_factory=dict)  # those of the changed bundle
    why: str = ""


@dataclass(frozen=True)
class Widths:
    """What tensors of a bundle may be given, at which price, and the limits that then hold."""

    subject: Subject
    stricter: Mapping[str, float]

    @cached_property
    def _schemes(self) -> dict[str, Scheme]:
        rows = {row["name"]: row["scheme"] for row in self.subject.data["tensors"]}
        return {name: Scheme.parse(rows[name]) for name in self.subject.bits}

    def changed(self, bits: Mapping[str, int]) -> dict[str, Scheme]:
        """Schemes with those tensors at other bits; floats have none."""
        found = self._schemes | {name: ROW for name, width in bits.items() if width == ROW.bits}
        return {n: s for n, s in found.items() if bits.get(n) != FLOAT_BITS}

    def size(self, bits: Mapping[str, int]) -> int:
        """Bytes of the engine's files, as its backend estimates them."""
        backend = sealed.backend_of(self.subject.data)
        return backend.size(self.subject.model, self.changed(bits))

    @cached_property
    def _now(self) -> int:
        return self.size({})

    def cost(self, bits: Mapping[str, int]) -> int:
        """Bytes that the bundle grows by."""
        return self.size(bits) - self._now

    def limits(self, bits: Mapping[str, int]) -> dict[str, float]:
        """The check's limits for the width that the bundle then has, by metric."""
        own = own_types(self.subject.data).values()
        width = width_of([*(s.name for s in self.changed(bits).values()), *own])
        known = {name: limit for name, limit in self.stricter.items() if name in TABLE}
        found = limits_for(width, 0, known)
        return {name: limit for name, limit in found.items() if name in TABLE}

    def upgrades(self, gains: Mapping[Unit, float]) -> Iterator[Upgrade]:
        """Each unit's next widths: 8 bits for less than 8, floats for 8 bits."""
        known: dict[tuple[object, ...], int] = {}
        for unit, gain in gains.items():
            now = min(self.subject.bits.get(name, FLOAT_BITS) for name in unit)
            if now == FLOAT_BITS:
                continue  # floats that a pass changed, or an engine's own type
            bits = 8 if now < ROW.bits else FLOAT_BITS
            key = bits, *(self._kind(name) for name in unit)
            if key not in known:
                known[key] = self.cost(self.given(unit, bits))
            yield Upgrade(unit, bits, gain, known[key])

    def given(self, unit: Unit, bits: int) -> dict[str, int]:
        """Those of a unit's tensors that have codes of fewer bits."""
        return {n: bits for n in unit if self.subject.bits.get(n, FLOAT_BITS) < bits}

    def _kind(self, name: str) -> tuple[object, ...]:
        scheme = self._schemes.get(name)
        table = "embed" in name or "wte" in name or "shared" in name
        return self.subject.model.weights.infos[name].shape, scheme, table


def refusal(subject: Subject) -> str:
    """Why no change of the recipe can help this bundle; empty where one can."""
    if own_types(subject.data):
        return (
            "its types are llama.cpp's own, which the target chooses and no recipe: name better "
            "ones with --set 'target.options.type_overrides={...}'"
        )
    if not any(one.get("stage") == "quantize" for one in subject.data["passes"]):
        return "no pass of its recipe chose its codes"
    return ""


def propose(
    widths: Widths, yardstick: Yardstick, now: Distance, gains: Mapping[Unit, float],
    failed: Sequence[str] | None = None,
) -> Change:  # fmt: skip
    """The shortest beginning of the list of upgrades, best per byte first, that is enough.

    Each beginning is measured with those tensors at their new bits (rounded to nearest), doubled in
    length until the metrics are within limits and then halved in between: 2 log2(n) evaluations.
    `failed` are metrics that the check failed on, None where it did not run: a bundle that passed
    needs a stricter limit to be changed; near its limit, what failed is broken here too.
    """
    limits = widths.limits({})
    if why := refusal(widths.subject):
        return Change(before=now, limits=limits, why=why)
    passed = failed == () and not widths.subject.options.limits
    if passed or not (now.broken(limits) or now.broken(limits, MARGIN).keys() & set(failed or ())):
        return Change(before=now, limits=limits, why=_nothing_broken(now, failed or (), passed))
    ordered = sorted(widths.upgrades(gains), key=lambda one: -one.worth)
    ordered += [
        replace(one, bits=FLOAT_BITS) for one in ordered if one.bits != FLOAT_BITS
    ]  # what 8 bits do not mend
    return _shortest(widths, ordered, now, _Trial(widths, yardstick))


def _nothing_broken(now: Distance, failed: Sequence[str], passed: bool) -> str:
    """What it means that all metrics are within their limits here."""
    if passed:
        return "its check failed on nothing; a stricter --limit METRIC=VALUE asks for one"
    why = "every metric measured here is within its limit"
    if near := [name for name in failed if name in now.metrics]:
        return (
            f"{why}; the check failed on {', '.join(near)}, on more samples or in its engine: give "
            f"more --tokens or --texts, or a stricter --limit {near[0]}=VALUE"
        )
    if failed:
        return f"{why}; what the check failed on is not of the weights: {', '.join(failed)}"
    return why


class _Trial:
    """The distance with the first upgrades made, and the limits that then hold."""

    def __init__(self, widths: Widths, yardstick: Yardstick) -> None:
        self.widths, self.yardstick = widths, yardstick

    def __call__(self, upgrades: Sequence[Upgrade]) -> Change:
        bits: dict[str, int] = {}
        for one in upgrades:
            bits |= self.widths.given(one.unit, one.bits)
        restored = {n for one in upgrades for n in one.unit if len(one.unit) > 1}
        restored |= {n for n, width in bits.items() if width == FLOAT_BITS}
        instead = {n: _rounded(self.yardstick.sides, n) for n in bits.keys() - restored}
        predicted = self.yardstick(restored, instead)
        return Change(bits, 0, None, predicted, self.widths.limits(bits))


def _rounded(sides: Sides, name: str) -> Tensor:
    """The source's weight on 8 bits."""
    import torch

    from edgecompile.numerics.rtn import quantize

    weight = sides.source[name]
    matrix = weight.reshape(weight.shape[0], -1).contiguous().numpy()
    return torch.from_numpy(quantize(matrix, ROW).dequantize())


def _shortest(
    widths: Widths, ordered: Sequence[Upgrade], now: Distance,
    trial: Callable[[Sequence[Upgrade]], Change],
) -> Change:  # fmt: skip
    """The change of the fewest upgrades that is within all limits."""

    def enough(count: int) -> Change | None:
        change = trial(ordered[:count])
        assert change.predicted is not None
        return None if change.predicted.broken(change.limits, MARGIN) else change

    low, high, best = 0, 1, enough(1) if ordered else None
    while best is None and high < len(ordered):
        low, high = high, min(2 * high, len(ordered))
        best = enough(high)
    if best is None:
        why = "with all tensors as floats a metric would still be outside its limit"
        return Change(before=now, limits=widths.limits({}), why=why)
    while high - low > 1:
        middle = (low + high) // 2
        found = enough(middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return replace(best, cost=widths.cost(best.bits), before=now)
