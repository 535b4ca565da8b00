"""How much each unit of an axis matters: one number a unit, larger for what should stay."""
from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompile.calibration.batches import Batch
from edgecompile.calibration.moments import rows_of
from edgecompile.model import Model
from edgecompile.numerics.parallel import spread
from edgecompile.numerics.swap import parameter_names
from edgecompile.pruning.axes import Axis, Cut, Shape

Scores = Mapping[str, NDArray[np.float64]]  # by an axis's key: [units]
Step = Callable[[int], None]


def by_norm(model: Model, shape: Shape) -> Scores:
    """Sum of the squares of all weights of a unit (Li et al. 2017, Pruning Filters, with L2)."""
    found = {axis.key: np.zeros(axis.units) for axis in shape.axes}
    for name, cuts in shape.cuts().items():
        squares = model.weights[name].double().square()
        for cut, axis in cuts:
            found[axis.key] += _per_unit(squares, cut, axis.units)
    model.weights.release()
    return found


def by_gradient(
    model: Model, body: nn.Module, shape: Shape, loss: Callable[[int], Tensor], count: int,
    step: Step,
) -> Scores:  # fmt: skip
    """First-order Taylor: the mean over losses of (sum of gradient x weight of a unit)^2.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, eq. 8, with the unit as
    a gate. `loss` gives the n-th of `count` scalars that depend on the weights of `body`.
    """
    places = _parameters(model, body, shape)

    def one(number: int) -> Scores:
        weights = [parameter for parameter, _ in places]
        gradients = torch.autograd.grad(loss(number), weights, allow_unused=True)
        sums = {axis.key: np.zeros(axis.units) for axis in shape.axes}
        for (parameter, cuts), gradient in zip(places, gradients, strict=True):
            if gradient is None:
                continue
            product = (gradient * parameter.detach()).double()
            for cut, axis in cuts:
                sums[axis.key] += _per_unit(product, cut, axis.units)
        return {key: value**2 for key, value in sums.items()}

    return _mean(spread(one, range(count)), shape, step)


def _mean(parts: Iterable[Scores], shape: Shape, step: Step) -> Scores:
    """The mean of what pieces of the text gave, added up in their order."""
    found, count = {axis.key: np.zeros(axis.units) for axis in shape.axes}, 0
    for part in parts:
        step(count)
        for key, value in part.items():
            found[key] += value
        count += 1
    return {key: value / max(count, 1) for key, value in found.items()}


def by_activation(
    model: Model, body: nn.Module, shape: Shape, batches: Sequence[Batch], step: Step
) -> Scores:
    """Mean square of what a unit gives to the products that read it, over calibration tokens.

    Muralidharan et al. 2024 (Minitron), section 2.2, with the mean over the batch and tokens of L2.
    """
    names, modules = parameter_names(body, model.weights), dict(body.named_modules())
    current = threading.local()

    def hook(entering: Sequence[tuple[Cut, Axis]], _module: Any, args: tuple[Any, ...]) -> None:
        squares = rows_of(args[0], current.mask).double().square().mean(0, keepdim=True)
        for cut, axis in entering:
            current.found[axis.key] += _per_unit(squares, cut, axis.units)

    def one(batch: Batch) -> Scores:
        current.mask, current.found = batch.mask, {a.key: np.zeros(a.units) for a in shape.axes}
        with torch.inference_mode():
            body(**batch.inputs)
        found: Scores = current.found
        return found

    with ExitStack() as hooks:
        for source, cuts in shape.cuts().items():
            reader = modules.get(names.get(source, "").removesuffix(".weight"))
            entering = [(cut, axis) for cut, axis in cuts if cut.dim == 1]
            if isinstance(reader, nn.Linear) and entering and source.endswith("weight"):
                handle = reader.register_forward_pre_hook(functools.partial(hook, entering))
                hooks.callback(handle.remove)
        return _mean(spread(one, batches), shape, step)


def _per_unit(values: Tensor, cut: Cut, units: int) -> NDArray[np.float64]:
    """Sums float64 [units] of what a cut's units hold."""
    others = [dim for dim in range(values.ndim) if dim != cut.dim]
    line = values.sum(others) if others else values
    part = line[cut.offset : cut.offset + units * cut.size]
    return part.reshape(units, cut.size).sum(1).numpy()


def _parameters(
    model: Model, body: nn.Module, shape: Shape
) -> list[tuple[nn.Parameter, list[tuple[Cut, Axis]]]]:
    names, parameters = parameter_names(body, model.weights), dict(body.named_parameters())
    return [
        (parameters[names[source]], cuts) for source, cuts in shape.cuts().items()
        if names.get(source) in parameters
    ]  # fmt: skip


def strongest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` highest scores, ascending; the lower index of equal ones."""
    order = np.argsort(-scores, kind="stable")[:count]
    return np.sort(order).astype(np.int64)


def lost(scores: Scores, axes: Iterable[Axis]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """By kind the share of importance that is lost when only the n strongest of each axis stay.

    float64 [units + 1], 1 at n = 0 and 0 at all units; the mean over layers.
    """
    sums: dict[str, list[NDArray[np.float64]]] = {}
    for axis in axes:
        falling = np.sort(scores[axis.key])[::-1]
        kept = np.concatenate([[0.0], np.cumsum(falling)])
        total = kept[-1]
        sums.setdefault(axis.kind, []).append(1 - kept / total if total > 0 else kept * 0)
    for kind, layers in sums.items():
        yield kind, np.mean(layers, axis=0)
