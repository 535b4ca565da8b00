"""Signal-to-noise ratios of layers, in dB: 10 log10(|source|^2 / |source - found|^2)."""
from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgecompile.explain.inputs import Inputs
from edgecompile.explain.sides import Sides
from edgecompile.explain.subject import Subject
from edgecompile.passes import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

FEW = 256  # tokens that layers' outputs are compared on: they are all held at once


@dataclass(frozen=True)
class LayerNoise:
    """One tensor with codes in one module that computes with it; NaN where nothing was measured.

    `weight_db` is of the weight itself. `alone_db` is of the module's output when it alone is
    quantized, so with the source's inputs; `cumulative_db` when all the model is, so with what the
    quantized layers before it give. Infinite where both are equal.
    """

    layer: str  # the module's path
    tensor: str
    scheme: str
    weight_db: float
    alone_db: float
    cumulative_db: float


@dataclass
class _Sums:
    """Squares of the source's outputs and of both differences from them."""

    signal: float = 0.0
    alone: float = 0.0
    cumulative: float = 0.0


@dataclass
class _Place:
    """A module that computes with a tensor: its outputs of one call, and sums over all calls."""

    module: nn.Module
    path: str
    tensor: str
    sums: _Sums = field(default_factory=_Sums)
    kept: list[Tensor] = field(default_factory=list)


def ratio_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise, NaN without a signal."""
    if not signal:
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf


def weight_noise(sides: Sides, name: str) -> tuple[float, float]:
    """Squares of a weight, and of what the bundle changes of it."""
    source = sides.source[name].double()
    return float(source.square().sum()), float((source - sides.found[name]).square().sum())


def layers(
    subject: Subject, sides: Sides, inputs: Sequence[Inputs], progress: Progress
) -> list[LayerNoise]:
    """Every module with codes, in the model's order; a tied head has a row beside the embedding."""
    places = list(_places(subject, sides))
    few = _few(inputs)
    for done, one in enumerate(few):
        progress("signal and noise", done, len(few))
        _add(sides, places, one)
    progress("signal and noise", len(few), len(few))
    schemes = {row["name"]: row["scheme"] for row in subject.data["tensors"]}
    ran = {place.tensor for place in places if place.sums.signal}
    return [
        LayerNoise(
            place.path, place.tensor, schemes.get(place.tensor, "own type"),
            ratio_db(*weight_noise(sides, place.tensor)),
            ratio_db(place.sums.signal, place.sums.alone) if not subject.folded else math.nan,
            ratio_db(place.sums.signal, place.sums.cumulative),
        )
        for place in places
        if place.sums.signal or place.tensor not in ran  # T5's first table only lends its weight
    ]  # fmt: skip


def _few(inputs: Sequence[Inputs]) -> list[Inputs]:
    """A few rows of each call, FEW elements (tokens) in all where they are tokens."""
    found, left = [], FEW
    for one in inputs:
        tensors = {n: v for n, v in one.named.items() if not isinstance(v, bool)}
        width = max(1, one.width)  # a picture counts as one
        rows = min(one.rows, max(1, left // width))
        cut = {name: value[:rows] for name, value in tensors.items()}
        found.append(Inputs({**one.named, **cut} if rows < one.rows else one.named))
        left -= rows * width
        if left <= 0:
            break
    return found


def _places(subject: Subject, sides: Sides) -> Iterator[_Place]:
    """Modules that hold a tensor with codes (or of an engine's own type) as their weight."""
    wanted = {sides.names[n]: n for n in subject.order if n in sides.names}
    sources = {id(sides.body.get_parameter(path)): name for path, name in wanted.items()}
    for path, module in sides.body.named_modules():
        weight = getattr(module, "weight", None)
        name = sources.get(id(weight))
        if name is not None and weight is not None and weight.ndim > 1:
            yield _Place(module, path, name)


def _add(sides: Sides, places: Sequence[_Place], one: Inputs) -> None:
    """Run both sides on one call; the source's outputs are kept in between."""
    import torch

    mask = one.named.get("attention_mask")
    with torch.inference_mode():
        with ExitStack() as hooks:
            for place in places:
                hook = functools.partial(_note_source, sides, place, mask)
                handle = place.module.register_forward_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
            sides.body(**one.named)
        with sides.compressed(), ExitStack() as hooks:
            for place in places:
                hook = functools.partial(_note_found, place, mask)
                hooks.callback(place.module.register_forward_hook(hook).remove)
            sides.body(**one.named)
    for place in places:
        place.kept.clear()


def _note_source(
    sides: Sides, place: _Place, mask: Tensor | None, module: nn.Module, args: Any, named: Any,
    output: Tensor,
) -> None:  # fmt: skip
    """The source's output, and what the same input gives with the bundle's weight."""
    place.module.weight.data, before = sides.found[place.tensor], place.module.weight.data
    try:
        alone = module.forward(*args, **named)
    finally:
        place.module.weight.data = before
    place.sums.signal += _squares(output, mask)
    place.sums.alone += _squares(output - alone, mask)
    place.kept.append(output)


def _note_found(
    place: _Place, mask: Tensor | None, _module: nn.Module, _args: Any, output: Tensor
) -> None:
    """The bundle's output, its inputs from quantized layers too."""
    if place.kept:  # a module that runs twice gives its outputs in the same order
        place.sums.cumulative += _squares(place.kept.pop(0) - output, mask)


def _squares(values: Tensor, mask: Tensor | None) -> float:
    """Their sum, without that of padded tokens."""
    if mask is not None and values.shape[:2] == mask.shape:
        values = values * mask.view(*mask.shape, *[1] * (values.ndim - 2))
    return float(values.double().square().sum())
