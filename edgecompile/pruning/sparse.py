"""Zeros in the matrices of a model's blocks, one block after another on what the ones before give.

The walk is that of GPTQ (calibration/walk.py): every matrix is pruned on the inputs that it will
have, those of the pruned blocks before it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from edgecompile import codes
from edgecompile.calibration.moments import Moments
from edgecompile.calibration.walk import Layer, Walk, find_blocks, set_weight
from edgecompile.errors import BadInputError
from edgecompile.model import TensorInfo, Weights
from edgecompile.numerics.sparse import Pattern, magnitude, output_error
from edgecompile.passes import LayerReport, Work

# A weight float32 [out, in] and its inputs' mean x^T x [in, in] -> the pruned weight, and words.
Rule = Callable[[Tensor, Tensor], tuple[Tensor, str]]


@dataclass(frozen=True)
class Sparsifier:
    """One run over the blocks; each finished block is a part in the pass's folder."""

    walk: Walk
    work: Work
    pattern: Pattern
    rule: Rule
    skip: tuple[str, ...] = ()

    def run(self) -> None:
        """Write every part that is not there yet."""
        for index in range(len(self.walk.blocks)):
            self._block(index)

    def _block(self, index: int) -> None:
        """Prune a block unless a killed run did; then pass the activations through it."""
        walk, steps = self.walk, len(self.walk.batches)
        walk.hold(index)
        groups = walk.layers(index)
        if index not in codes.parts(self.work.folder):
            rows = [row for group in groups for row in self._group(index, group)]
            pruned = {
                layer.source: layer.linear.weight.numpy()
                for group in groups for layer in group if not self._why_not(layer)
            }  # fmt: skip
            codes.add_part(self.work.folder, index, codes.Part({}, pruned, rows))
        else:
            self._restore(index, groups)
        walk.advance(index, lambda done: self.work.progress(
            "prune", index * steps + done, len(walk.blocks) * steps
        ))  # fmt: skip
        walk.drop(index)

    def _restore(self, index: int, groups: list[list[Layer]]) -> None:
        stored = of_part(self.work.folder, index)
        for layer in (one for group in groups for one in group if one.source in stored):
            set_weight(layer, torch.from_numpy(stored.float32(layer.source)))

    def _group(self, index: int, group: list[Layer]) -> Iterator[LayerReport]:
        """Prune matrices that have one input together."""
        wanted = [layer for layer in group if not self._why_not(layer)]
        if wanted:
            moments = Moments(wanted[0].linear.in_features)
            for inputs in self.walk.inputs(index, wanted[0], self.walk.given):
                moments.add(inputs)
        for layer in group:
            why = self._why_not(layer)
            yield LayerReport(layer.source, "skipped", why) if why else self._layer(layer, moments)

    def _layer(self, layer: Layer, moments: Moments) -> LayerReport:
        """Prune one matrix to what the checkpoint's own type can hold."""
        weight, hessian = layer.linear.weight.detach(), moments.mean()
        if not bool(torch.isfinite(hessian).all()):
            raise BadInputError(
                layer.source, "the calibration inputs' products are not finite",
                "finite activations", "look at the text and the weights, or name it in skip",
            )  # fmt: skip
        pruned, words = self.rule(weight, hessian)
        pruned = pruned.to(self.walk.model.weights[layer.source].dtype).float()
        set_weight(layer, pruned)
        share = float((pruned == 0).float().mean())
        error = output_error(weight, pruned, hessian)
        plain = output_error(weight, magnitude(weight, self.pattern), hessian)
        detail = f"{share:.1%} zeros ({self.pattern.name}){words}; by magnitude {plain:.4f}"
        return LayerReport(layer.source, "changed", detail, error, of="outputs")

    def _why_not(self, layer: Layer) -> str:
        if not self._in_a_block(layer):
            return "in no block"
        if any(fnmatchcase(layer.source, pattern) for pattern in self.skip):
            return "named in skip"
        columns = layer.linear.in_features
        if self.pattern.of and columns % self.pattern.of:
            return f"{columns} columns do not divide into groups of {self.pattern.of}"
        return ""

    def _in_a_block(self, layer: Layer) -> bool:
        """A model that is one block to the walk has its head and the like there too."""
        paths = [path for path, _ in find_blocks(self.walk.body)]
        names = (name for name, source in self.walk.names.items() if source == layer.source)
        return any(name.startswith(f"{path}.".lstrip(".")) for name in names for path in paths)


def of_part(folder: Path, number: int) -> Weights:
    """The pruned tensors float32 of one block, read when asked."""
    from safetensors import safe_open

    file = folder / codes.PART.format(number)
    with safe_open(file, framework="numpy") as arrays:
        shapes = {name: tuple(arrays.get_slice(name).get_shape()) for name in arrays.keys()}  # noqa: SIM118
    return Weights({name: TensorInfo(file, shape, "F32") for name, shape in shapes.items()})


def pruned(folder: Path) -> Weights:
    """Those of all blocks."""
    found = (of_part(folder, number).infos for number in codes.parts(folder))
    return Weights({name: info for infos in found for name, info in infos.items()})
