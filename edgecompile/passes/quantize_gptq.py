"""quantize_gptq: calibrated rounding on the grid, block after block on the quantized prefix."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from edgecompile import codes
from edgecompile.calibration.batches import text_batches
from edgecompile.calibration.moments import Moments
from edgecompile.calibration.walk import Layer, Walk
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.numerics.gptq import Rounding, gptq
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme
from edgecompile.passes import LayerReport, PassResult, Work
from edgecompile.passes.grid import GridOptions, weight_error


@dataclass(frozen=True)
class QuantizeGptq(GridOptions):
    """Options of the grid, of the calibration text and of the rounding.

    `texts` are windows of `length` tokens for a decoder, whole texts for an encoder. `damping` is
    added to the Hessian's diagonal as a share of its mean; `sweeps` refine codes and scales.
    """

    name: ClassVar[str] = "quantize_gptq"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    reads_target: ClassVar[bool] = False
    texts: int = 64
    length: int = 512
    damping: float = 0.01
    act_order: bool = True
    sweeps: int = 2
    blocks: int = 0  # only so many blocks are calibrated, the rest rounded to nearest; 0: all

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Quantize the blocks' matrices in order, then those outside of blocks."""
        batches = text_batches(model, work.corpus().calibration, self.texts, self.length)
        schemes = self.schemes(model)
        walk = Walk(model, batches, work.folder)
        try:
            _Job(self, walk, work, schemes).run()
        finally:
            walk.close()
        return self.result(model, work.folder)


@dataclass
class _Job:
    """One run of the pass: parts are blocks in order, then tensors outside of blocks."""

    options: QuantizeGptq
    walk: Walk
    work: Work
    schemes: Mapping[str, Scheme]

    def run(self) -> None:
        count = len(self.walk.blocks)
        chosen = min(self.options.blocks or count, count)
        for index in range(chosen):
            self._block(index, chosen)
        covered = codes.load(self.work.folder)[0].keys()
        rest = [name for name in self.schemes if name not in covered]
        moments = self.walk.outside(rest) if chosen == count else {}
        for number, name in enumerate(rest, count):
            self.work.progress("quantize the rest", number - count, len(rest))
            tensor, row = self._one(name, moments.get(name))
            codes.add_part(self.work.folder, number, codes.Part({name: tensor}, layers=[row]))
        self.work.progress("quantize the rest", len(rest), len(rest))

    def _block(self, index: int, count: int) -> None:
        """Quantize a block unless a killed run did; then pass the activations through it."""
        steps = len(self.walk.batches)
        groups = self.walk.layers(index)
        layers = [layer for group in groups for layer in group]
        self.walk.hold(layers)
        tensors: dict[str, QuantizedTensor] = {}
        rows: list[LayerReport] = []
        finished = index in codes.parts(self.work.folder)
        stored = codes.load(self.work.folder)[0]
        for group in groups:
            wanted = [layer for layer in group if layer.source in self.schemes]
            moments = None if finished or not wanted else self._moments(index, wanted[0])
            for layer in wanted:
                if finished:
                    tensor = stored[layer.source]
                else:
                    tensor, row = self._one(layer.source, moments)
                    tensors[layer.source] = tensor
                    rows.append(row)
                self.walk.set_weight(layer, torch.from_numpy(tensor.dequantize()))
        if not finished:
            codes.add_part(self.work.folder, index, codes.Part(tensors, layers=rows))
        self.walk.advance(
            index, lambda done: self.work.progress("calibrate", index * steps + done, count * steps)
        )
        self.walk.drop(layers)

    def _moments(self, index: int, layer: Layer) -> Moments:
        moments = Moments(layer.linear.in_features)
        for batch in range(len(self.walk.batches)):
            moments.add(self.walk.inputs(index, batch, layer, self.walk.given[batch]))
        return moments

    def _one(self, name: str, moments: Moments | None) -> tuple[QuantizedTensor, LayerReport]:
        """Codes and report of one tensor; without inputs it is rounded to nearest."""
        weight = self.walk.model.weights.float32(name)
        scheme = self.schemes[name]
        if moments is None or not moments.tokens:
            tensor = quantize(weight, scheme, self.options.scale_search)
            detail = f"{scheme.name}, rounded to nearest: no calibration inputs"
            return tensor, LayerReport(name, "changed", detail, weight_error(weight, tensor))
        how = Rounding(
            self.options.damping, self.options.act_order, self.options.sweeps,
            self.options.scale_search,
        )  # fmt: skip
        try:
            done = gptq(torch.from_numpy(weight), moments.mean(), scheme, how)
        except ValueError as error:
            raise BadInputError(
                f"{self.options.name}: {name}", str(error), "finite activations",
                "look at the calibration text and the weights; skip the tensor to go on",
            ) from error  # fmt: skip
        detail = scheme.name
        if done.damping != self.options.damping:
            detail += f", damping raised to {done.damping:g}"
        if done.dead:
            detail += f", {done.dead} columns without input"
        row = LayerReport(name, "changed", detail, done.error, done.nearest_error, "outputs")
        return done.tensor, row
