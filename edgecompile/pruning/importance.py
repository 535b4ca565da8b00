"""How much each unit of an axis matters: one number a unit, larger for what should stay."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompile.calibration.batches import Batch
from edgecompile.model import Model
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
    model: Model, body: nn.Module, shape: Shape, losses: Iterable[Tensor]
) -> Scores:
    """First-order Taylor: the mean over losses of (sum of gradient x weight of a unit)^2.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, eq. 8, with the unit as
    a gate. Each of `losses` is a scalar tensor that depends on the weights of `body`.
    """
    places, count = _parameters(model, body, shape), 0
    found = {axis.key: np.zeros(axis.units) for axis in shape.axes}
    for loss in losses:
        body.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        sums = {axis.key: np.zeros(axis.units) for axis in shape.axes}
        for parameter, cuts in places:
            if parameter.grad is None:
                continue
            product = (parameter.grad * parameter.detach()).double()
            for cut, axis in cuts:
                sums[axis.key] += _per_unit(product, cut, axis.units)
        for key, value in sums.items():
            found[key] += value**2
        count += 1
    body.zero_grad(set_to_none=True)
    return {key: value / max(count, 1) for key, value in found.items()}


def by_activation(
    model: Model, body: nn.Module, shape: Shape, batches: Sequence[Batch], step: Step
) -> Scores:
    """Mean square of what a unit gives to the products that read it, over calibration tokens.

    Muralidharan et al. 2024 (Minitron), section 2.2, with the mean over the batch and tokens of L2.
    """
    names = parameter_names(body, model.weights)
    modules, found = dict(body.named_modules()), {a.key: np.zeros(a.units) for a in shape.axes}
    with ExitStack() as hooks, torch.inference_mode():
        mask: list[Tensor | None] = [None]
        for source, cuts in shape.cuts().items():
            reader = modules.get(names.get(source, "").removesuffix(".weight"))
            entering = [(cut, axis) for cut, axis in cuts if cut.dim == 1]
            if isinstance(reader, nn.Linear) and entering and source.endswith("weight"):
                hook = _adds(found, entering, mask)
                hooks.callback(reader.register_forward_pre_hook(hook).remove)
        for number, batch in enumerate(batches):
            step(number)
            mask[0] = batch.mask
            body(**batch.inputs)
    return found


def _adds(
    found: Mapping[str, NDArray[np.float64]], entering: Sequence[tuple[Cut, Axis]],
    mask: Sequence[Tensor | None],
) -> Callable[[nn.Module, tuple[Any, ...]], None]:  # fmt: skip
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0]
        rows = given.reshape(-1, given.shape[-1])
        if mask[0] is not None and given.ndim == 3:
            rows = given[mask[0]]
        squares = rows.double().square().mean(0, keepdim=True)
        for cut, axis in entering:
            found[axis.key][:] += _per_unit(squares, cut, axis.units)

    return hook


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
