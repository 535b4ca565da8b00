"""Restoring by halves: what is found, in how many evaluations."""
from __future__ import annotations

import math

import pytest

from edgecompile.explain.search import Layer, Part, by_unit, restore

LAYERS: tuple[Layer, ...] = tuple(
    tuple((f"layers.{number}.{name}",) for name in ("q", "k", "v", "o", "up", "down"))
    for number in range(32)
)


class Costs:
    """A model whose divergence is a sum over its tensors."""

    def __init__(self, **large: float) -> None:
        names = [unit[0] for layer in LAYERS for unit in layer]
        self.costs = {name: large.get(name.replace(".", "_"), 0.001) for name in names}
        self.asked = 0

    @property
    def whole(self) -> float:
        return sum(self.costs.values())

    def __call__(self, restored: frozenset[str]) -> float:
        self.asked += 1
        return sum(cost for name, cost in self.costs.items() if name not in restored)


def single(parts: list[Part]) -> dict[str, float]:
    return {part.units[0][0]: part.gain for part in parts if len(part.units) == 1}


def test_one_ruined_tensor_of_192_is_found_in_16_evaluations() -> None:
    costs = Costs(layers_21_down=3.0)
    found = single(restore(LAYERS, costs.whole, costs, 16))
    assert max(found, key=lambda name: found[name]) == "layers.21.down"
    assert costs.asked == 2 * math.ceil(math.log2(192))


def test_two_ruined_tensors_are_found_one_after_the_other() -> None:
    costs = Costs(layers_3_q=1.0, layers_30_up=2.0)
    found = single(restore(LAYERS, costs.whole, costs, 32))
    assert sorted(found, key=lambda name: -found[name])[:2] == ["layers.30.up", "layers.3.q"]


def test_no_more_is_evaluated_than_was_allowed() -> None:
    costs = Costs()
    restore(LAYERS, costs.whole, costs, 41)
    assert costs.asked <= 41


def test_with_enough_evaluations_every_tensor_is_measured() -> None:
    costs = Costs(layers_3_q=1.0)
    found = single(restore(LAYERS, costs.whole, costs, 10_000))
    assert found == pytest.approx(costs.costs)


def test_what_was_not_measured_gets_its_share_of_the_part_that_was() -> None:
    costs = Costs(layers_21_down=3.0)
    parts = restore(LAYERS, costs.whole, costs, 16)
    gains = by_unit(parts, lambda unit: 1.0)
    assert sum(gains.values()) == pytest.approx(costs.whole)
    assert gains["layers.0.q",] == pytest.approx(0.001)


def test_units_of_a_folded_layer_stay_together() -> None:
    folded: tuple[Layer, ...] = tuple(
        (tuple(unit[0] for unit in layer),) for layer in LAYERS
    )
    costs = Costs(layers_5_k=2.0)
    parts = restore(folded, costs.whole, costs, 10)
    best = max((part for part in parts if len(part.units) == 1), key=lambda part: part.gain)
    assert best.units == folded[5]
