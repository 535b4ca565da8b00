"""allocate_bits: which tensors get 4, 8 or 16 bits, by what each costs on tuning text."""
from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from edgecompile import host
from edgecompile.calibration.batches import text_batches
from edgecompile.calibration.sensitivity import Sensitivity
from edgecompile.config import parse_size
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.allocate import Choice, allocate
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, Scheme
from edgecompile.passes import Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import CONVOLUTION, FLOAT_BITS, GridOptions, in_range
from edgecompile.passes.quantize_gptq import QuantizeGptq
from edgecompile.structure import roles

COSTS = "costs.json"
LARGEST = 1_500_000_000  # parameters whose gradients this pass will hold


@dataclass(frozen=True)
class AllocateBits:
    """Options: a budget, one of `max_size` (of a target's bundle) and `bits_per_weight`.

    The mean bits per weight count codes and 16 bits a scale, over all tensors that can be
    quantized; it is the same for every target, where the size of a bundle is its target's own.
    `widths` are the bits to choose from; 16 leaves a tensor as it is. Convolutions have one width
    alone, so nothing is chosen for them. With `calibrated`, the errors
    weighed are those of GPTQ's codes, else those of rounding to nearest.
    """

    name: ClassVar[str] = "allocate_bits"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration", "tuning")
    max_size: str = ""  # for example 95MB
    bits_per_weight: float = 0.0
    widths: tuple[int, ...] = (4, 8)
    calibrated: bool = True
    texts: int = 64
    length: int = 64
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, before anything is read."""
        in_range(
            self.name, texts=(self.texts, 1, math.inf), length=(self.length, 2, math.inf),
            bits_per_weight=(self.bits_per_weight, 0, FLOAT_BITS),
        )  # fmt: skip

    @property
    def reads_target(self) -> bool:
        """A budget in bytes is one target's."""
        return bool(self.max_size)

    def preview(self, model: Model) -> dict[str, Scheme]:
        """Nothing is known before the text was read; options are checked."""
        if bool(self.max_size) == bool(self.bits_per_weight):
            found = f"max_size {self.max_size!r}, bits_per_weight {self.bits_per_weight!r}"
            raise UsageError("[allocate_bits]", found, "one of the two")
        if self.max_size:
            parse_size(self.max_size, "[allocate_bits] max_size")
        if not self.widths or set(self.widths) - {4, 8, FLOAT_BITS}:
            raise UsageError("[allocate_bits] widths", str(self.widths), "of 4, 8 and 16")
        if model.parameters > LARGEST:
            raise UnsupportedError(
                "allocate_bits", f"{model.parameters:,} parameters", f"at most {LARGEST:,}",
                "name the tensors that get 8 bits in [quantize] overrides",
            )  # fmt: skip
        return {}

    def effort(self, model: Model) -> Effort:
        """A forward and a backward run of the tuning text, and GPTQ's codes where they count."""
        first = self._gptq().effort(model)
        products = 3.0 * model.parameters * self.texts * self.length
        grown = 4.0 * model.parameters * (1 + host.usable_cores() + len(self.widths) / 2)
        if self.calibrated:
            return Effort(products + first.products, 2 * first.rounded, grown)
        return Effort(products, 2 * first.rounded, grown)

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Weigh each tensor's error at each width, then spend the budget where it saves most."""
        self.preview(model)
        names = list(self._grid(min(self.widths), model))
        costs = self._weighed(model, names, work)
        sizes, budget = self._sizes(model, names, work.size)
        choices = {
            name: [Choice(b, sizes(name, b), costs[name][b]) for b in sorted(self.widths)]
            for name in names
        }
        try:
            bits = allocate(choices, budget)
        except ValueError as error:
            least = sum(min(choice.size for choice in row) for row in choices.values())
            raise self._too_small(least - budget, model, names) from error
        rows = tuple(_row(name, bits[name], choices[name]) for name in names)
        return PassResult(dataclasses.replace(model, bits=bits), rows)

    def _too_small(self, missing: int, model: Model, names: Sequence[str]) -> UsageError:
        """What to say when even the smallest widths take so many bytes more than the budget."""
        way_out = "allow more" + ("" if 4 in self.widths else ", or add 4 to widths")
        if self.max_size:
            most = parse_size(self.max_size, "[allocate_bits] max_size")
            found = f"the smallest bundle takes {(most + missing) / 1e6:.3f} MB"
            wanted = f"{self.max_size} at most"
            return UsageError("[allocate_bits] max_size", found, wanted, way_out)
        least = self.bits_per_weight + 8 * missing / _weights(model, names)
        found = f"the smallest widths take {least:.3f} bits a weight"
        wanted = f"{self.bits_per_weight:g} at most"
        return UsageError("[allocate_bits] bits_per_weight", found, wanted, way_out)

    def _gptq(self) -> QuantizeGptq:
        return QuantizeGptq(bits=4, skip=self.skip, convolutions=False)

    def _grid(self, bits: int, model: Model) -> dict[str, Scheme]:
        """Schemes of all tensors that can be quantized, at one width."""
        if bits == FLOAT_BITS:
            bits = 8
        options = GridOptions(bits=bits, skip=self.skip, convolutions=False)  # type: ignore[arg-type]
        return options.schemes(dataclasses.replace(model, bits={}))

    def _weighed(
        self, model: Model, names: Sequence[str], work: Work
    ) -> dict[str, dict[int, float]]:
        """As `_costs`, weighed once for any budget."""

        def weigh(folder: Path) -> None:
            costs = self._costs(model, names, dataclasses.replace(work, folder=folder))
            (folder / COSTS).write_text(json.dumps(costs), encoding="utf-8")

        budget = {"max_size": "", "bits_per_weight": 0.0}
        options = dataclasses.asdict(self) | budget
        found = json.loads((work.stage("weigh", options, weigh) / COSTS).read_text("utf-8"))
        return {name: {int(b): cost for b, cost in row.items()} for name, row in found.items()}

    def _costs(
        self, model: Model, names: Sequence[str], work: Work
    ) -> dict[str, dict[int, float]]:
        """What each tensor costs at each width, by tensor and bits."""
        measured = [bits for bits in sorted(self.widths) if bits != FLOAT_BITS]
        changes = {bits: self._changes(model, bits, names, work) for bits in measured}
        batches = text_batches(model, work.corpus().tuning, self.texts, self.length)
        found = Sensitivity(
            model, {name: [changes[bits][name] for bits in measured] for name in names}
        ).costs(batches, lambda done: work.progress("weigh tensors", done, len(batches)))
        return {
            name: dict(zip(measured, found[name], strict=True)) | {FLOAT_BITS: 0.0}
            for name in names
        }

    def _changes(
        self, model: Model, bits: int, names: Sequence[str], work: Work
    ) -> dict[str, Tensor]:
        """code x scale - weight of each tensor, bfloat16."""
        schemes = self._grid(bits, model)
        if bits == 4 and self.calibrated:
            folder = work.folder / "four"
            folder.mkdir(exist_ok=True)
            part = dataclasses.replace(work, folder=folder)
            codes = self._gptq()(dataclasses.replace(model, bits={}), part).model.quantized
            changed = {n: _change(codes[n].dequantize(), model, n) for n in names}
            shutil.rmtree(folder)
            return changed
        return {
            name: _change(
                quantize(model.weights.matrix(name), schemes[name]).dequantize(), model, name
            )
            for name in names
        }

    def _sizes(
        self, model: Model, names: Sequence[str], size: Callable[[Mapping[str, Scheme]], int]
    ) -> tuple[Callable[[str, int], int], int]:
        """Bytes of a tensor at a width, and the budget for all of them."""
        if self.bits_per_weight:
            total = self.bits_per_weight * _weights(model, names)
            return lambda n, b: _nominal(model, n, b), int(total / 8)
        most = parse_size(self.max_size, "[allocate_bits] max_size")
        fixed = {name: CONVOLUTION for name, role in roles(model).items() if role == "convolution"}
        return _marginal(model, names, lambda found: size({**fixed, **found})), most - size(fixed)


def _change(values: Float32, model: Model, name: str) -> Tensor:
    return torch.from_numpy(values - model.weights.float32(name)).to(torch.bfloat16)


def _weights(model: Model, names: Sequence[str]) -> int:
    return sum(math.prod(model.weights.infos[name].shape) for name in names)


def _nominal(model: Model, name: str, bits: int) -> int:
    """Codes and 16 bits a scale, in bytes."""
    rows, columns = model.weights.infos[name].shape
    groups = {4: columns // 32, 8: 1, FLOAT_BITS: 0}[bits]
    return rows * (columns * bits + groups * 16) // 8


def _marginal(
    model: Model, names: Sequence[str], size: Callable[[Mapping[str, Scheme]], int]
) -> Callable[[str, int], int]:
    """What a bundle grows (or shrinks) by when one tensor is quantized, by its shape and role."""
    empty, kinds = size({}), roles(model)
    schemes = {4: Scheme(4, 32), 8: Scheme(8, 0)}
    known = {}
    for name in names:
        kind = kinds[name], model.weights.infos[name].shape
        for bits, scheme in schemes.items():
            if (*kind, bits) not in known:
                known[*kind, bits] = size({name: scheme}) - empty

    def of(name: str, bits: int) -> int:
        if bits == FLOAT_BITS:
            return 0
        return known[kinds[name], model.weights.infos[name].shape, bits]

    return of


def _row(name: str, bits: int, choices: Sequence[Choice]) -> LayerReport:
    losses = {choice.bits: choice.loss for choice in choices}
    others = ", ".join(f"{loss:.2g} at {width}" for width, loss in losses.items())
    return LayerReport(
        name, "changed", f"{bits} bits (divergence {others})", losses[bits],
        losses[min(losses)], "answers",
    )  # fmt: skip
