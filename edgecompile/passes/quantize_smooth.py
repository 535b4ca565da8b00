"""quantize_smooth: 8-bit weights and 8-bit activations, outlier channels moved into the weights."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from edgecompile import codes
from edgecompile.calibration.folds import Folding
from edgecompile.calibration.moments import Moments
from edgecompile.calibration.walk import Layer, Walk
from edgecompile.model import Model
from edgecompile.numerics import smooth
from edgecompile.numerics.ranges import ESTIMATORS, Range
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import LayerReport, PassResult, Work
from edgecompile.passes.grid import weight_error
from edgecompile.passes.quantize_gptq import Job, QuantizeGptq

ROWS = 1024  # of a layer's calibration inputs, on which alpha and range are chosen


@dataclass(frozen=True)
class QuantizeSmooth(QuantizeGptq):
    """Options of quantize_gptq; how ranges are estimated; whether scales may stay at the inputs.

    A scale is folded into the layer before, where there is one that allows it. Else, with
    `factors`, the engine multiplies the inputs by it: only ONNX Runtime's W8A8 products can.
    """

    name: ClassVar[str] = "quantize_smooth"
    ranges: Literal["minmax", "percentile", "mse"] = "minmax"
    rounding: Literal["gptq", "nearest"] = "nearest"
    factors: bool = True

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Smooth and quantize block after block; ranges of their inputs go with the model."""
        result = super().__call__(model, work)
        activations = {**model.activations, **codes.ranges(work.folder)}
        changed = dataclasses.replace(result.model, activations=activations)
        return PassResult(changed, result.layers)

    def job(self, walk: Walk, work: Work, schemes: Mapping[str, Scheme]) -> Job:
        """Smooth each block's inputs before its weights are rounded."""
        return _SmoothJob(self, walk, work, schemes, self)


@dataclass(frozen=True)
class _Chosen:
    """What became of a layer's input: its scale, whether it is in the weight already, words."""

    scale: Float32
    range: Range
    folded: bool
    words: str


@dataclass
class _SmoothJob(Job):
    """Scales and ranges are chosen on what quantized blocks before give."""

    settings: QuantizeSmooth
    chosen: dict[str, _Chosen] = field(default_factory=dict)  # of the current block

    def prepare(
        self, index: int, groups: Sequence[Sequence[Layer]], finished: bool
    ) -> dict[str, Float32]:
        """Choose scales and ranges of a block; norms and biases that took a scale, by tensor."""
        folding = Folding(self.walk, index, self.schemes.keys())
        if finished:
            return folding.restore(codes.load(self.work.folder)[1])
        self.chosen.clear()
        for group in groups:
            if all(self.schemes.get(layer.source) == smooth.W8 for layer in group):
                self._smooth(index, folding, group)
        ranges = {name: one.range for name, one in self.chosen.items()}
        codes.add_ranges(self.work.folder, index, ranges)
        return folding.replaced

    def _smooth(self, index: int, folding: Folding, group: Sequence[Layer]) -> None:
        weight = np.concatenate([layer.linear.weight.numpy() for layer in group])
        inputs = self._inputs(index, group[0])
        estimator = ESTIMATORS[self.settings.ranges]
        found = smooth.search(inputs, weight, estimator)
        ones = np.ones(weight.shape[1], np.float32)
        plain = _Chosen(ones, estimator(inputs.values(ones)), False, "not smoothed")
        one = dataclasses.replace(plain, words="not smoothed: no alpha is better")
        if found.alpha:
            neighbour = folding.find(group)
            words = f"alpha {found.alpha:.2f}, error {found.plain_error:.4f} -> {found.error:.4f}"
            if neighbour is not None and len(set(neighbour.channels.tolist())) == len(ones):
                folding.fold(neighbour, group, torch.from_numpy(found.scale))
                one = _Chosen(found.scale, found.range, True, f"{words}, in {neighbour.weight}")
            elif self.settings.factors:
                one = _Chosen(found.scale, found.range, False, f"{words}, at the inputs")
            else:
                one = dataclasses.replace(plain, words="not smoothed: no foldable neighbour")
        for layer in group:
            self.chosen[layer.source] = one

    def _inputs(self, index: int, layer: Layer) -> smooth.Inputs:
        """Evenly spaced rows of what enters a layer, and each channel's extremes."""
        tokens = sum(_tokens(batch.mask, batch.inputs) for batch in self.walk.batches)
        stride = max(1, tokens // ROWS)
        kept: list[Float32] = []
        extremes: list[Float32] = []
        for rows in self.walk.inputs(index, layer, self.walk.given):
            kept.append(rows[::stride].numpy().copy())
            extremes += [rows.amin(0).numpy(), rows.amax(0).numpy()]
        both = np.stack(extremes)
        return smooth.Inputs(np.concatenate(kept), both.min(0), both.max(0))

    def rounded(
        self, name: str, weight: Tensor, moments: Moments | None
    ) -> tuple[QuantizedTensor, LayerReport]:
        """Codes of a weight times its scale; the scale is folded, or stays with the tensor."""
        one = self.chosen.get(name)
        if one is None or moments is None:
            return super().rounded(name, weight, moments)
        scale = torch.from_numpy(one.scale)
        stays = not one.folded and bool((scale != 1).any())
        if stays:
            weight = weight * scale
        tensor, row = self._codes(name, weight, moments, scale)
        factors = (1 / one.scale).astype(np.float32) if stays else None
        row = dataclasses.replace(row, detail=f"{row.detail}, {one.words}")
        return dataclasses.replace(tensor, inputs=factors), row

    def _codes(
        self, name: str, weight: Tensor, moments: Moments, scale: Tensor
    ) -> tuple[QuantizedTensor, LayerReport]:
        """By GPTQ on the scaled inputs, or to nearest weighted by them."""
        scaled = Moments(moments.size)
        scaled.second = moments.second / torch.outer(scale, scale)
        scaled.tokens = moments.tokens
        if self.settings.rounding == "gptq":
            return super().rounded(name, weight, scaled)
        importance = scaled.mean().diagonal().numpy()
        array, scheme = weight.numpy(), self.schemes[name]
        tensor = quantize(array, scheme, self.options.scale_search, importance)
        return tensor, LayerReport(name, "changed", scheme.name, weight_error(array, tensor))


def _tokens(mask: Tensor | None, inputs: Mapping[str, object]) -> int:
    """Tokens of a batch without padding."""
    if mask is not None:
        return int(mask.sum())
    first = next(iter(inputs.values()))
    return int(first.numel()) if isinstance(first, torch.Tensor) else 0
