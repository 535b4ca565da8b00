"""quantize_awq: channels with large activations are scaled up before they are rounded."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edgecompile import codes
from edgecompile.calibration.folds import Folding, Neighbour
from edgecompile.calibration.moments import Moments
from edgecompile.calibration.walk import Layer, Walk
from edgecompile.model import Model
from edgecompile.numerics import awq
from edgecompile.numerics.gptq import inverse_factor, shrunk
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import Effort, LayerReport, Work
from edgecompile.passes.quantize_gptq import Job, QuantizeGptq

STEP = 2  # every second batch enters the search
SEARCHED = 1.7  # times the work of GPTQ alone (docs/quantization.md)


@dataclass(frozen=True)
class QuantizeAwq(QuantizeGptq):
    """Options of quantize_gptq, and how the scaled weights are rounded."""

    name: ClassVar[str] = "quantize_awq"
    rounding: Literal["gptq", "nearest"] = "gptq"

    def effort(self, model: Model) -> Effort:
        """More than that of GPTQ: the search runs and rounds each block once more."""
        plain = super().effort(model)
        return dataclasses.replace(plain, products=SEARCHED * plain.products)

    def job(self, walk: Walk, work: Work, schemes: Mapping[str, Scheme]) -> Job:
        """Scale each block's channels before it is rounded."""
        return _AwqJob(self, walk, work, schemes, self.rounding)


@dataclass(frozen=True)
class _Scaled:
    """What became of a matrix's input channels: their scale float32 [in], and words for it."""

    scale: Tensor
    words: str


@dataclass
class _AwqJob(Job):
    """Scales are searched on what enters the float block from the quantized ones before it."""

    rounding: str
    scaled: dict[str, _Scaled] = field(default_factory=dict)  # of the current block
    known: list[Neighbour | None] = field(default_factory=list)  # of the first block's groups

    def prepare(
        self, index: int, groups: Sequence[Sequence[Layer]], finished: bool
    ) -> dict[str, Float32]:
        """Fold scales into the block; norms and biases that took one, by source tensor."""
        folding = Folding(self.walk, index, self.schemes.keys())
        if not index:
            self.known = [self._find(folding, group) for group in groups]
        if finished:
            return folding.restore(codes.load(self.work.folder)[1])
        self.scaled.clear()
        for neighbour, group in zip(self._neighbours(folding, groups), groups, strict=True):
            self._scale(index, folding, neighbour, group)
        return folding.replaced

    def _find(self, folding: Folding, group: Sequence[Layer]) -> Neighbour | None:
        return None if self._float_member(group) else folding.find(group)

    def _float_member(self, group: Sequence[Layer]) -> str:
        """A matrix that would have to take the group's scale but stays as it is, or nothing."""
        return next((layer.source for layer in group if layer.source not in self.schemes), "")

    def _neighbours(
        self, folding: Folding, groups: Sequence[Sequence[Layer]]
    ) -> list[Neighbour | None]:
        """The first block's neighbours where they hold in this one, or those that it has itself."""
        same: list[Neighbour | None] = [None] * len(groups)
        if len(self.known) == len(groups):
            same = [
                folding.alike(known, group) if known and not self._float_member(group) else None
                for known, group in zip(self.known, groups, strict=True)
            ]
        pairs = [(n, g) for n, g in zip(same, groups, strict=True) if n is not None]
        if not folding.holds(pairs):
            same = [None] * len(groups)
        return [n or self._find(folding, g) for n, g in zip(same, groups, strict=True)]

    def _scale(
        self, index: int, folding: Folding, neighbour: Neighbour | None, group: Sequence[Layer]
    ) -> None:
        if neighbour is None:
            other = self._float_member(group)
            why = f"{other} shares its input and stays float" if other else "no foldable neighbour"
            for layer in group:
                ones = torch.ones(layer.linear.in_features)
                self.scaled[layer.source] = _Scaled(ones, f"not scaled: {why}")
            return
        inputs = self._inputs(index, group[0], neighbour.channels)
        matrices = [awq.Matrix(x.linear.weight, self.schemes[x.source]) for x in group]
        found = awq.search(matrices, inputs, self.options.scale_search)
        if found.alpha:
            folding.fold(neighbour, group, found.scale)
        words = f"alpha {found.alpha:.2f} folded into {neighbour.weight}"
        if not found.alpha:
            words = f"not scaled: no alpha is better, with {neighbour.weight} as neighbour"
        for layer in group:
            self.scaled[layer.source] = _Scaled(found.scale, words)

    def _inputs(self, index: int, layer: Layer, channels: Tensor) -> awq.Inputs:
        """Second moments and mean magnitude [in] of what enters a layer, from some of the batches.

        One number is chosen by them; the codes, by what all batches give.
        """
        moments, total = Moments(layer.linear.in_features), torch.zeros(layer.linear.in_features)
        for rows in self.walk.inputs(index, layer, self.walk.given, STEP):
            moments.add(rows)
            total += rows.abs().sum(0)
        hessian, magnitude = moments.mean(), total / max(1, moments.tokens)
        plain = awq.Inputs(hessian, magnitude, channels)
        if self.rounding == "nearest":
            return plain
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        try:
            target = shrunk(hessian, self.options.shrink)
            factor, _ = inverse_factor(target, self.options.damping, order)
        except ValueError:
            return plain  # GPTQ itself will refuse these inputs by the matrix's name
        return dataclasses.replace(plain, order=order, factor=factor)

    def rounded(
        self, name: str, weight: Tensor, moments: Moments | None
    ) -> tuple[QuantizedTensor, LayerReport]:
        """Codes of a weight that is scaled already; `nearest` is the error without the scale."""
        if moments is None or not moments.tokens:
            return super().rounded(name, weight, moments)
        found = self.scaled.get(name) or _Scaled(torch.ones(weight.shape[1]), "not in a block")
        scheme, hessian, scale = self.schemes[name], moments.mean(), found.scale
        importance = awq.column_weights(hessian)
        plain = self._nearest(weight / scale, scheme, importance * scale**2)
        nearest = _error(weight, hessian, plain, 1 / scale)
        if self.rounding == "gptq":
            tensor, row = super().rounded(name, weight, moments)
        else:
            tensor = self._nearest(weight, scheme, importance)
            error = _error(weight, hessian, tensor, torch.ones_like(scale))
            row = LayerReport(name, "changed", scheme.name, error, of="outputs")
        detail = f"{row.detail}, {found.words}"
        return tensor, dataclasses.replace(row, detail=detail, nearest=nearest)

    def _nearest(self, weight: Tensor, scheme: Scheme, importance: Tensor) -> QuantizedTensor:
        search = self.options.scale_search
        return quantize(weight.numpy(), scheme, search, importance.numpy())


def _error(weight: Tensor, hessian: Tensor, tensor: QuantizedTensor, scale: Tensor) -> float:
    """|X (W - Q / s)^T| / |X W^T|, Frobenius norms."""
    norm = float(((weight @ hessian) * weight).sum())
    return math.sqrt(awq.output_loss(weight, tensor, hessian, scale) / max(norm, 1e-30))
