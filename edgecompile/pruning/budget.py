"""How wide a smaller model may be: levers are pulled where least is lost, down to a budget."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model, Weights
from edgecompile.pruning.axes import Lever, Shape

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}
Lost = Mapping[str, NDArray[np.float64]]  # by kind, the share lost when n units stay


@dataclass(frozen=True)
class Budget:
    """One of the three: the share of the blocks' parameters to go, or what may stay in all.

    `floor` is the share of each kind's units that no lever goes below.
    """

    ratio: float = 0.0
    max_params: int = 0
    max_size: float = 0.0  # MB of the checkpoint's weights
    floor: float = 0.25

    def __post_init__(self) -> None:
        given = [bool(value) for value in (self.ratio, self.max_params, self.max_size)]
        if sum(given) != 1:
            raise UsageError(
                "[prune]", f"{sum(given)} budgets", "one of ratio, max_params and max_size (MB)"
            )
        for name in ("ratio", "floor"):
            if not 0 <= getattr(self, name) < 1:
                found = f"{name} = {getattr(self, name)!r}"
                raise UsageError("[prune]", found, "a share from 0 to below 1")
        if self.max_params < 0 or self.max_size < 0:
            raise UsageError("[prune]", "a budget below 0", "parameters, or MB, above 0")

    def goal(self, model: Model, shape: Shape) -> int:
        """Parameters, or bytes for `max_size`, that may stay."""
        if self.max_size:
            return int(self.max_size * 1e6)
        if self.max_params:
            return self.max_params
        blocks = sum(
            math.prod(info.shape) for name, info in model.weights.infos.items()
            if name.startswith(shape.layer)
        )  # fmt: skip
        return model.parameters - round(self.ratio * blocks)

    def takes(self, model: Model, shape: Shape, widths: Mapping[str, int]) -> int:
        """The same measure of a model with those widths; `ratio` counts blocks alone."""
        total = 0
        for name, sizes in smaller_shapes(model, shape, widths).items():
            info = model.weights.infos[name]
            counted = sizes if not self.ratio or name.startswith(shape.layer) else info.shape
            total += math.prod(counted) * (BYTES.get(info.dtype, 4) if self.max_size else 1)
        return total


def widths_for(
    model: Model, shape: Shape, budget: Budget, levers: tuple[Lever, ...], lost: Lost
) -> dict[str, int]:
    """Units by kind that fit the budget.

    Each step pulls the lever that loses least importance for the parameters that it saves; what the
    last one saved too much goes back to the others.
    """
    full, widths = shape.widths, dict(shape.widths)
    goal = budget.goal(model, shape)
    while (now := budget.takes(model, shape, widths)) > goal:
        steps = [
            (_lost(lost, widths, after) / (now - budget.takes(model, shape, after)), index, after)
            for index, lever in enumerate(levers)
            if (after := _pulled(widths, lever, full, budget.floor)) is not None
        ]
        if not steps:
            way = ", ".join(lever.name for lever in levers)
            raise UnsupportedError(
                model.name, f"{now:,} left, {goal:,} wanted: {way} are at the floor",
                f"a larger budget, or a floor below {budget.floor}", "see [prune] floor, levers",
            )  # fmt: skip
        widths = min(steps, key=lambda step: step[:2])[2]
    return _refilled(widths, levers, full, lost, lambda one: budget.takes(model, shape, one) - goal)


def _refilled(
    widths: dict[str, int], levers: tuple[Lever, ...], full: Mapping[str, int], lost: Lost,
    beyond: Callable[[Mapping[str, int]], int],
) -> dict[str, int]:  # fmt: skip
    """Levers let go again where the last, large step of another went below the budget.

    Each time the one that gives back most importance for the parameters it takes.
    """
    while True:
        now = beyond(widths)
        steps = [
            (_lost(lost, widths, after) / (beyond(after) - now), index, after)
            for index, lever in enumerate(levers)
            if (after := _let_go(widths, lever, full)) is not None and beyond(after) <= 0
        ]
        if not steps:
            return widths
        widths = min(steps, key=lambda step: step[:2])[2]


def _let_go(
    widths: Mapping[str, int], lever: Lever, full: Mapping[str, int]
) -> dict[str, int] | None:
    after = {kind: width + lever.units.get(kind, 0) for kind, width in widths.items()}
    return None if any(after[kind] > full[kind] for kind in lever.units) else after


def _pulled(
    widths: Mapping[str, int], lever: Lever, full: Mapping[str, int], floor: float
) -> dict[str, int] | None:
    after = dict(widths)
    for kind, step in lever.units.items():
        after[kind] -= step
        if after[kind] < max(1, floor * full[kind]):
            return None
    return after


def _lost(lost: Lost, before: Mapping[str, int], after: Mapping[str, int]) -> float:
    changed = [kind for kind in before if before[kind] != after[kind]]
    return float(sum(lost[kind][after[kind]] - lost[kind][before[kind]] for kind in changed))


def smaller_shapes(
    model: Model, shape: Shape, widths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape with those widths."""
    cuts, full = shape.cuts(), shape.widths
    found = {}
    for name, info in model.weights.infos.items():
        sizes = list(info.shape)
        for cut, axis in cuts.get(name, ()):
            sizes[cut.dim] -= cut.size * (full[axis.kind] - widths[axis.kind])
        found[name] = tuple(sizes)
    return found


def resized(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Headers alone with other shapes, for a plan; such weights cannot be read."""
    infos = model.weights.infos
    return Weights({name: replace(infos[name], shape=size) for name, size in shapes.items()})
