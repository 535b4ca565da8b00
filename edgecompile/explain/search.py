"""Which part of the weights costs most: restore halves, and look into the half that wins most."""
from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Unit = tuple[str, ...]  # tensors that are restored together
Layer = tuple[Unit, ...]


@dataclass(frozen=True)
class Part:
    """Some neighbouring layers, or units of one, and the divergence won back by restoring them."""

    layers: tuple[Layer, ...]
    gain: float

    @property
    def units(self) -> Layer:
        """All units in it."""
        return tuple(itertools.chain.from_iterable(self.layers))

    @property
    def tensors(self) -> frozenset[str]:
        """All tensors in it."""
        return frozenset(itertools.chain.from_iterable(self.units))

    def halves(self) -> list[tuple[Layer, ...]]:
        """Half of the layers and the others; of one layer, half of its units; of one unit none."""
        if len(self.layers) > 1:
            middle = len(self.layers) // 2
            return [self.layers[:middle], self.layers[middle:]]
        units = self.layers[0]
        middle = len(units) // 2
        return [(units[:middle],), (units[middle:],)] if middle else []


def restore(
    layers: Sequence[Layer], whole: float, divergence: Callable[[frozenset[str]], float],
    evaluations: int,
) -> list[Part]:  # fmt: skip
    """Parts with what each wins back alone, of `whole`, the divergence with nothing restored.

    Best first: the part that wins most is halved and both halves are measured, so that one ruined
    tensor of n is found in 2 log2(n) evaluations, and what is left of them ranks the others. A part
    of one unit cannot be halved. All together win everything: with no tensor of the bundle's left,
    the model is the source.
    """
    tie = itertools.count()
    first = Part(tuple(layers), whole)
    found, waiting = [first], [(-whole, next(tie), first)]
    while waiting:
        part = heapq.heappop(waiting)[2]
        halves = part.halves()
        if len(halves) > evaluations:
            break
        for half in halves:
            evaluations -= 1
            tensors = Part(half, 0.0).tensors
            measured = Part(half, whole - divergence(tensors))
            found.append(measured)
            heapq.heappush(waiting, (-measured.gain, next(tie), measured))
    return found


def by_unit(parts: Sequence[Part], noise: Callable[[Unit], float]) -> dict[Unit, float]:
    """What each unit wins back; of one that was not measured, its share of its smallest part.

    Shares go by `noise`, the weights' own error.
    """
    gains: dict[Unit, float] = {}
    for part in sorted(parts, key=lambda one: -len(one.units)):
        total = sum(noise(unit) for unit in part.units)
        for unit in part.units:
            gains[unit] = part.gain * (noise(unit) / total if total else 1 / len(part.units))
    return gains


def alone(parts: Sequence[Part], layers: Sequence[Layer]) -> Iterator[tuple[int, float]]:
    """Number and gain of each layer that was measured as a whole."""
    known = {part.units: part.gain for part in parts if len(part.layers) == 1}
    for number, layer in enumerate(layers):
        if layer in known:
            yield number, known[layer]
