"""Where the scale of a layer's input channels can go: a neighbour whose output they are.

Found by measurement, not by names: a neighbour's output channels are scaled, and only if the input
channels of a layer follow, each in proportion to one of them, and the block's output stays the same
when the layer's columns take the inverse, may a scale be folded there.
"""
from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.calibration.moments import rows_of
from edgecompile.calibration.walk import Layer, Walk
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import Float32

PROBES = 2.0, 128.0  # probing scales: without 1, that nothing be taken for a change
TOLERANCE = 1e-4  # relative change (Frobenius norm) of a block's output that is rounding


@dataclass(frozen=True)
class Neighbour:
    """A module of the block whose output channel `channels[c]` becomes input channel c, int64 [in].

    `path` is the module's name inside the block; `weight` [outputs, ...] and `bias` are names of
    source tensors, the latter empty if there is none.
    """

    path: str
    weight: str
    bias: str
    channels: Tensor


class _SeenError(Exception):
    """Ends a run with the input that was wanted."""


class Folding:
    """Finds and applies folds in one block of a walk, whose layers hold their weights."""

    def __init__(self, walk: Walk, index: int, scalable: Collection[str]) -> None:
        """`scalable` are source tensors of matrices that will be quantized."""
        self.walk, self.index = walk, index
        self.path, self.block = walk.blocks[index]
        self.modules = dict(self._candidates(scalable))
        self.replaced: dict[str, Float32] = {}  # norms and biases that took a scale

    def _candidates(self, scalable: Collection[str]) -> Iterator[tuple[str, nn.Module]]:
        """Norms with a weight, and the matrices that will be quantized, by name in the block."""
        for inner, module in self.block.named_modules():
            weight = getattr(module, "weight", None)
            source = self._source(inner, "weight")
            if not inner or not isinstance(weight, nn.Parameter) or not source:
                continue
            linear = isinstance(module, nn.Linear)
            if (linear and source in scalable) or (not linear and weight.dim() == 1):
                yield inner, module

    def _source(self, inner: str, leaf: str) -> str:
        path = ".".join(part for part in (self.path, inner, leaf) if part)
        return self.walk.names.get(path, "")

    def find(self, group: Sequence[Layer]) -> Neighbour | None:
        """The first module that may take the scale of a group's input; None if there is none."""
        before = self._inputs(group[0])
        for path, module in self.modules.items():
            if any(layer.linear is module for layer in group):
                continue
            found = self._followed(path, module, group[0], before)
            if found is not None and self.holds([(found, group)]):
                return found
        return None

    def alike(self, neighbour: Neighbour, group: Sequence[Layer]) -> Neighbour | None:
        """The same place in this block as a neighbour of another block, if there is one.

        Whether it holds here is not known yet.
        """
        module, channels = self.modules.get(neighbour.path), neighbour.channels
        fits = len(channels) == group[0].linear.in_features
        if module is None or not fits or int(channels.max()) >= len(weight_of(module)):
            return None
        return self._neighbour(neighbour.path, channels)

    def _neighbour(self, path: str, channels: Tensor) -> Neighbour:
        return Neighbour(path, self._source(path, "weight"), self._source(path, "bias"), channels)

    def _inputs(self, layer: Layer) -> Tensor:
        """What enters a layer on the first batch, float32 [tokens, in]."""

        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            raise _SeenError(args[0])

        handle = layer.linear.register_forward_pre_hook(hook)
        try:
            self._output()
        except _SeenError as seen:
            return rows_of(seen.args[0], self.walk.batches[0].mask)
        finally:
            handle.remove()
        raise UnsupportedError(layer.source, "does not run on the first batch")

    def _output(self) -> Tensor:
        return self.walk.run(self.index, 0, self.walk.given[0])

    def _followed(
        self, path: str, module: nn.Module, layer: Layer, before: Tensor
    ) -> Neighbour | None:
        """Which of the module's outputs each input channel is; None if one is not in proportion."""
        outputs = len(weight_of(module))
        columns = before.shape[1]
        if outputs < 2 or columns % outputs:
            return None
        probe = probing_scales(outputs)
        with self._changed({module: 1 / probe}):
            after = self._inputs(layer)
        channels = proportions(before, after, probe)
        return None if channels is None else self._neighbour(path, channels)

    def holds(self, folds: Sequence[tuple[Neighbour, Sequence[Layer]]]) -> bool:
        """Whether the block's output stays the same with a probing scale in all folds at once."""
        expected = self._output()
        rows: dict[nn.Module, Tensor] = {}
        columns: dict[nn.Module, Tensor] = {}
        for neighbour, group in folds:
            module = self.modules[neighbour.path]
            probe = probing_scales(len(weight_of(module)))
            rows[module] = 1 / probe
            columns |= {layer.linear: probe[neighbour.channels] for layer in group}
        with self._changed(rows, columns):
            found = self._output()
        return float((found - expected).norm()) <= TOLERANCE * float(expected.norm())

    @contextmanager
    def _changed(
        self, rows: Mapping[nn.Module, Tensor], columns: Mapping[nn.Module, Tensor] | None = None
    ) -> Iterator[None]:
        """Inside, modules' rows (and biases) and columns are multiplied; then all is as before."""
        columns = columns or {}
        kept = {m: (weight_of(m), bias_of(m)) for m in (*rows, *columns)}
        for module, factor in rows.items():
            scale_rows(module, factor)
        for module, factor in columns.items():
            replace(module, weight_of(module) * factor)
        try:
            yield
        finally:
            for module, (weight, bias) in kept.items():
                replace(module, weight, bias)

    def fold(self, neighbour: Neighbour, group: Sequence[Layer], scale: Tensor) -> None:
        """Multiply the group's columns by scale [in] and divide the neighbour's outputs by it."""
        module = self.modules[neighbour.path]
        outputs = torch.ones(len(weight_of(module)))
        outputs[neighbour.channels] = scale
        scale_rows(module, 1 / outputs)
        for layer in group:
            replace(layer.linear, weight_of(layer.linear) * scale)
        bias = bias_of(module)
        if bias is not None:
            self.replaced[neighbour.bias] = bias.numpy()
        if not isinstance(module, nn.Linear):
            self.replaced[neighbour.weight] = weight_of(module).numpy()

    def restore(self, replaced: Mapping[str, Float32]) -> dict[str, Float32]:
        """Let the block's norms and biases be those that took a scale before."""
        for name, _ in list(self.block.named_parameters()):
            source = self._source("", name)
            if source in replaced:
                owner = self.block.get_submodule(name.rpartition(".")[0])
                value = torch.from_numpy(replaced[source])
                setattr(owner, name.rpartition(".")[2], nn.Parameter(value, requires_grad=False))
                self.replaced[source] = replaced[source]
        return self.replaced


def weight_of(module: nn.Module) -> Tensor:
    """The weight that a module has now."""
    weight: Tensor = module.get_parameter("weight").data
    return weight


def replace(module: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    """Let a module compute with another weight, and bias if one is given."""
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=False)


def bias_of(module: nn.Module) -> Tensor | None:
    """A module's bias, if it has one."""
    bias = getattr(module, "bias", None)
    return bias.data if isinstance(bias, nn.Parameter) else None


def scale_rows(module: nn.Module, factor: Tensor) -> None:
    """Multiply a module's weight [out] or [out, in], and its bias, by factor [out]."""
    weight, bias = weight_of(module), bias_of(module)
    by_row = factor if weight.dim() == 1 else factor[:, None]
    replace(module, weight * by_row, None if bias is None else bias * factor)


def probing_scales(count: int) -> Tensor:
    """Distinct scales float32 [count], evenly spread on a log scale, in a fixed random order."""
    low, high = (math.log(value) for value in PROBES)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return torch.linspace(low, high, count).exp()[order]


def proportions(before: Tensor, after: Tensor, probe: Tensor) -> Tensor | None:
    """For each column c the j with after = before / probe[j], int64 [in]; None if one has none.

    Before and after are float32 [tokens, in], probe [out]. A column of zeros is taken for its own
    number where there are as many columns as scales.
    """
    square = (before * before).sum(0)
    alive = square > 0
    if len(probe) != before.shape[1] and not bool(alive.all()):
        return None
    ratio = (before * after).sum(0) / square.clamp(min=1e-30)
    ordered, order = torch.sort(1 / probe)
    bounds = (ordered[1:] * ordered[:-1]).sqrt()
    nearest = order[torch.bucketize(ratio, bounds)]
    channels = torch.where(alive, nearest, torch.arange(len(alive)) % len(probe))
    lost = (after - before / probe[channels]).norm(dim=0)
    close = lost <= TOLERANCE * after.norm(dim=0)
    return channels if bool(close.all()) and bool(alive.any()) else None
