"""What every quantize pass shares: which tensors, on which scheme, and the report of one."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from edgecompile import codes
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.numerics.balance import balanced
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import Effort, LayerReport, PassResult
from edgecompile.structure import roles

FLOAT_BITS = 16  # in Model.bits: the tensor stays as it is
CONVOLUTION = Scheme(8, 0)  # 8 bits, a scale for each output channel


@dataclass(frozen=True)
class GridOptions:
    """Options: the grid, and patterns of tensor names that are skipped or get other bits.

    What allocate_bits chose for a tensor comes before all of them but `skip`. A convolution has
    CONVOLUTION whatever they say: no engine here reads 4-bit kernels; or none, if not wanted.
    """

    name: ClassVar[str] = "quantize"
    bits: Literal[4, 8] = 8
    group_size: int = -1  # -1: 32 at 4 bits, a whole row at 8; 0: a whole row
    embedding_bits: Literal[0, 4, 8] = 0  # 0: as `bits`
    convolutions: bool = True  # whether their weights get codes
    scale_search: bool = True
    skip: tuple[str, ...] = ()
    overrides: Mapping[str, int] = field(default_factory=dict)  # pattern -> bits

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, before anything is read."""
        in_range(self.name, group_size=(self.group_size, -1, math.inf))

    def preview(self, model: Model) -> dict[str, Scheme]:
        """Which tensor gets which scheme, from headers alone, in the source's order."""
        return {
            name: self.scheme(name, role, model)
            for name, role in roles(model).items()
            if not self.reason_to_skip(name, role, model)
        }

    def effort(self, model: Model) -> Effort:
        """Every weight is rounded once."""
        return Effort(rounded=sum(math.prod(shape) for shape in self.shapes(model)))

    def shapes(self, model: Model) -> list[tuple[int, int]]:
        """Shapes [out, in] of the tensors that will be quantized."""
        return [model.weights.infos[name].matrix for name in self.preview(model)]

    def schemes(self, model: Model) -> dict[str, Scheme]:
        """As `preview`; raises UsageError when no tensor matches."""
        found = self.preview(model)
        if not found:
            raise UsageError(
                self.name, f"no tensor of {model.name} matched", "at least one matrix",
                "see `edgecompile plan` for the tensors and the patterns in skip",
            )  # fmt: skip
        return found

    def scheme(self, name: str, role: str, model: Model) -> Scheme:
        """The scheme of one tensor, from the options and allocated bits alone."""
        bits: int = self.embedding_bits or self.bits if role == "embedding" else self.bits
        for pattern, chosen in self.overrides.items():
            bits = chosen if fnmatchcase(name, pattern) else bits
        bits = model.bits.get(name, bits)
        if bits not in (4, 8, FLOAT_BITS):
            raise UsageError(f"{self.name}.overrides", f"{bits} bits for {name}", "4 or 8")
        if role == "convolution" and bits != FLOAT_BITS:
            return CONVOLUTION
        if self.group_size >= 0:
            return Scheme(bits, self.group_size)
        return Scheme(bits, 32 if bits == 4 else 0)

    def reason_to_skip(self, name: str, role: str, model: Model) -> str:
        """Why a tensor stays as it is; empty if it is quantized."""
        if role == "other":
            return "not a linear layer's or convolution's weight, nor the vocabulary's table"
        if role == "unused":
            return "not part of the task's graph"
        if any(fnmatchcase(name, pattern) for pattern in self.skip):
            return "named in skip"
        if role == "convolution" and not self.convolutions:
            return "a convolution, and convolutions = false"
        scheme = self.scheme(name, role, model)
        if scheme.bits == FLOAT_BITS:
            return "left as floats by allocate_bits"
        columns = model.weights.infos[name].matrix[1]
        if scheme.group_size and columns % scheme.group_size:
            return f"{columns} columns do not divide into groups of {scheme.group_size}"
        return ""

    def nearest(self, name: str, weight: Float32, scheme: Scheme, model: Model) -> QuantizedTensor:
        """Codes of a weight [out, in] from itself alone; a convolution's with errors that cancel.

        Kernels have three axes or four, and nothing else that gets codes does.
        """
        tensor, shape = quantize(weight, scheme, self.scale_search), model.weights.infos[name].shape
        if len(shape) < 3:
            return tensor
        return balanced(weight, tensor, math.prod(shape[2:]))

    def result(self, model: Model, folder: Path) -> PassResult:
        """The model with what the finished parts in `folder` hold, a row for every tensor."""
        quantized, replaced = codes.load(folder)
        rows = {n: LayerReport(n, "skipped", why) for n, why in self.skipped(model).items()}
        rows |= codes.layers(folder)
        changed = dataclasses.replace(
            model, quantized=quantized, replaced={**model.replaced, **replaced}
        )
        layers = [rows[name] for name in model.weights if name in rows]
        return PassResult(changed, (*layers, *self.idle_patterns(model)))

    def idle_patterns(self, model: Model) -> list[LayerReport]:
        """Patterns of skip and overrides that fit no tensor: a misspelt one must be seen."""
        return [
            LayerReport(pattern, "skipped", "this pattern fits no tensor")
            for pattern in (*self.skip, *self.overrides)
            if not any(fnmatchcase(name, pattern) for name in model.weights)
        ]

    def skipped(self, model: Model) -> dict[str, str]:
        """Why each tensor that is not quantized stays as it is."""
        reasons = {n: self.reason_to_skip(n, role, model) for n, role in roles(model).items()}
        return {name: reason for name, reason in reasons.items() if reason}


def in_range(where: str, **options: tuple[float, float, float]) -> None:
    """Raise UsageError for the first option (value, least, most) that is not a number between."""
    for name, (value, least, most) in options.items():
        if not (math.isfinite(value) and least <= value <= most):
            expected = f"at least {least}" + (f", at most {most}" if math.isfinite(most) else "")
            raise UsageError(f"[{where}] {name}", str(value), expected)


def weight_error(weight: Float32, tensor: QuantizedTensor) -> float:
    """|w - codes x scale| / |w|, Frobenius norms."""
    lost, norm = (float(np.linalg.norm(w)) for w in (weight - tensor.dequantize(), weight))
    return lost / max(norm, 1e-30)
