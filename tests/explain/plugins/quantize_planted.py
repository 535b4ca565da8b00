"""quantize_planted: as quantize_rtn, but overrides may say 2: those codes are -2, -1, 0 and 1.

They stand on the 4-bit grid, which every engine reads.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes.quantize_rtn import QuantizeRtn

FOUR = Scheme(4, 32)


@dataclass(frozen=True)
class QuantizePlanted(QuantizeRtn):
    """Rounding to nearest, with ruined layers."""

    name: ClassVar[str] = "quantize_planted"

    def _bits(self, name: str) -> int:
        bits = 0
        for pattern, chosen in self.overrides.items():
            bits = chosen if fnmatchcase(name, pattern) else bits
        return bits

    def scheme(self, name: str, role: str, model: Model) -> Scheme:
        if self._bits(name) == 2:
            return FOUR
        return super().scheme(name, role, model)

    def nearest(self, name: str, weight: Float32, scheme: Scheme, model: Model) -> QuantizedTensor:
        if self._bits(name) == 2:
            return dataclasses.replace(quantize(weight, Scheme(2, 32)), scheme=FOUR)
        return super().nearest(name, weight, scheme, model)
