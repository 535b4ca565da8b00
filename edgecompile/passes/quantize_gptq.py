"""quantize_gptq: calibrated rounding on the grid, block after block on the quantized prefix."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgecompile import codes
from edgecompile.calibration.batches import text_batches
from edgecompile.calibration.moments import Moments
from edgecompile.calibration.walk import Layer, Walk, set_weight
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.numerics.gptq import LARGEST_DAMPING, Rounding, gptq
from edgecompile.numerics.parallel import one_thread_a_piece
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import GridOptions, in_range, weight_error

RUNS = 2.6  # of a block, each up to the inputs that are wanted next, and once more to its end


@dataclass(frozen=True)
class QuantizeGptq(GridOptions):
    """Options of the grid, of the calibration text and of the rounding.

    `texts` are windows of `length` tokens for a decoder, whole texts for an encoder. `damping` is
    added to the Hessian's diagonal as a share of its mean; `sweeps` refine codes and scales;
    `shrink` takes a share from the products of different columns (numerics/gptq.py).
    """

    name: ClassVar[str] = "quantize_gptq"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    reads_target: ClassVar[bool] = False
    texts: int = 32
    length: int = 512
    damping: float = 0.01
    act_order: bool = True
    sweeps: int = 0
    shrink: float = 0.2
    blocks: int = 0  # only so many blocks are calibrated, the rest rounded to nearest; 0: all

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, before anything is read."""
        super().__post_init__()
        in_range(
            self.name, texts=(self.texts, 1, math.inf), length=(self.length, 2, math.inf),
            damping=(self.damping, 0, LARGEST_DAMPING), sweeps=(self.sweeps, 0, math.inf),
            blocks=(self.blocks, 0, math.inf), shrink=(self.shrink, 0, 1),
        )  # fmt: skip

    def effort(self, model: Model) -> Effort:
        """Blocks run RUNS times on the text; the arithmetic of a matrix grows with out x in^2."""
        shapes = self.shapes(model)
        tokens = self.texts * self.length
        run = sum(out * columns for out, columns in shapes) * tokens * RUNS
        moments = sum(columns * columns for _, columns in shapes) * tokens / 2
        solved = sum(out * columns**2 for out, columns in shapes) * (4 + 5 * self.sweeps)
        widest = max((columns for _, columns in shapes), default=0)
        blocks = max(1, int(model.common_config.get("num_hidden_layers", 1)))
        memory = 8 * sum(math.prod(shape) for shape in shapes) / blocks + 16 * widest**2
        return Effort(run + moments + solved, super().effort(model).rounded, memory)

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Quantize the blocks' matrices in order, then those outside of blocks."""
        batches = text_batches(model, work.corpus().calibration, self.texts, self.length)
        schemes = self.schemes(model)
        with one_thread_a_piece(), closing(Walk(model, batches, work.folder)) as walk:
            self.job(walk, work, schemes).run()
        return self.result(model, work.folder)

    def job(self, walk: Walk, work: Work, schemes: Mapping[str, Scheme]) -> Job:
        """What runs over the blocks."""
        return Job(self, walk, work, schemes)


@dataclass
class Job:
    """One run of the pass: parts are blocks in order, then tensors outside of blocks."""

    options: QuantizeGptq
    walk: Walk
    work: Work
    schemes: Mapping[str, Scheme]

    def run(self) -> None:
        """Write every part that is not there yet."""
        count = len(self.walk.blocks)
        chosen = min(self.options.blocks or count, count)
        for index in range(chosen):
            self._block(index, chosen)
        covered = codes.load(self.work.folder)[0].keys()
        # A number is the tensor's own, so that a resumed run does not write over a finished one.
        rest = {n: number for number, n in enumerate(self.schemes, count) if n not in covered}
        moments = self.walk.outside(rest) if chosen == count else {}
        for done, (name, number) in enumerate(rest.items()):
            self.work.progress("quantize the rest", done, len(rest))
            weight = torch.from_numpy(self.walk.model.weights.matrix(name))
            tensor, row = self.rounded(name, weight, moments.get(name))
            codes.add_part(self.work.folder, number, codes.Part({name: tensor}, layers=[row]))
        self.work.progress("quantize the rest", len(rest), len(rest))

    def _block(self, index: int, count: int) -> None:
        """Quantize a block unless a killed run did; then pass the activations through it."""
        steps = len(self.walk.batches)
        self.walk.hold(index)
        groups = self.walk.layers(index)
        tensors: dict[str, QuantizedTensor] = {}
        finished = index in codes.parts(self.work.folder)
        replaced = self.prepare(index, groups, finished)
        rows = [LayerReport(name, "changed", "took the scale of what follows") for name in replaced]
        stored = codes.load(self.work.folder)[0]
        for group in groups:
            wanted = [layer for layer in group if layer.source in self.schemes]
            moments = None if finished or not wanted else self._moments(index, wanted[0])
            for layer in wanted:
                if finished:
                    tensor = stored[layer.source]
                else:
                    tensor, row = self.rounded(layer.source, layer.linear.weight, moments)
                    tensors[layer.source] = tensor
                    rows.append(row)
                set_weight(layer, torch.from_numpy(tensor.dequantize()))
        if not finished:
            codes.add_part(self.work.folder, index, codes.Part(tensors, replaced, rows))
        self.walk.advance(
            index, lambda done: self.work.progress("calibrate", index * steps + done, count * steps)
        )
        self.walk.drop(index)

    def _moments(self, index: int, layer: Layer) -> Moments:
        moments = Moments(layer.linear.in_features)
        for rows in self.walk.inputs(index, layer, self.walk.given):
            moments.add(rows)
        return moments

    def prepare(
        self, index: int, groups: Sequence[Sequence[Layer]], finished: bool
    ) -> dict[str, Float32]:
        """Change a block's float weights before they are rounded; those that stay floats."""
        return {}

    def rounded(
        self, name: str, weight: Tensor, moments: Moments | None
    ) -> tuple[QuantizedTensor, LayerReport]:
        """Codes and report of one tensor; without inputs it is rounded to nearest."""
        scheme = self.schemes[name]
        if moments is None or not moments.tokens:
            array = weight.numpy()
            tensor = self.options.nearest(name, array, scheme, self.walk.model)
            detail = f"{scheme.name}, rounded to nearest: no calibration inputs"
            return tensor, LayerReport(name, "changed", detail, weight_error(array, tensor))
        how = Rounding(
            self.options.damping, self.options.act_order, self.options.sweeps,
            self.options.scale_search, self.options.shrink,
        )  # fmt: skip
        try:
            done = gptq(weight, moments.mean(), scheme, how)
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
