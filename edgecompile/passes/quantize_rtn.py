"""quantize_rtn: round every matrix to nearest on the shared grid; no data is read."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np

from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme
from edgecompile.passes import LayerReport, PassResult, Progress
from edgecompile.structure import roles


@dataclass(frozen=True)
class QuantizeRtn:
    """Options: the grid, and patterns of tensor names that are skipped or get other bits."""

    name: ClassVar[str] = "quantize_rtn"
    bits: Literal[4, 8] = 8
    group_size: int = -1  # -1: 32 at 4 bits, a whole row at 8; 0: a whole row
    embedding_bits: Literal[0, 4, 8] = 0  # 0: as `bits`
    scale_search: bool = True
    skip: tuple[str, ...] = ()
    overrides: Mapping[str, int] = field(default_factory=dict)  # pattern -> bits

    def __call__(self, model: Model, progress: Progress) -> PassResult:
        """Quantize all linear weights and the input embedding (with a tied head, one tensor)."""
        kinds = roles(model)
        quantized: dict[str, QuantizedTensor] = dict(model.quantized)
        layers: list[LayerReport] = []
        for index, name in enumerate(model.weights):
            progress("quantize", index, len(kinds))
            report, codes = self._layer(model, name, kinds[name])
            layers.append(report)
            if codes is not None:
                quantized[name] = codes
        progress("quantize", len(kinds), len(kinds))
        result = PassResult(dataclasses.replace(model, quantized=quantized), tuple(layers))
        if not result.changed:
            raise UsageError(
                self.name, f"no tensor of {model.name} matched", "at least one matrix",
                "see `edgecompile plan` for the tensors and the patterns in skip",
            )  # fmt: skip
        return result

    def preview(self, model: Model) -> dict[str, Scheme]:
        """Which tensor gets which scheme, from headers alone."""
        return {
            name: self.scheme(name, role)
            for name, role in roles(model).items()
            if not self.reason_to_skip(name, role, (model.weights.infos[name].shape or (0,))[-1])
        }

    def scheme(self, name: str, role: str) -> Scheme:
        """The scheme of one tensor, from the options alone."""
        bits: int = self.embedding_bits or self.bits if role == "embedding" else self.bits
        for pattern, chosen in self.overrides.items():
            bits = chosen if fnmatchcase(name, pattern) else bits
        if bits not in (4, 8):
            raise UsageError(f"{self.name}.overrides", f"{bits} bits for {name}", "4 or 8")
        if self.group_size >= 0:
            return Scheme(bits, self.group_size)
        return Scheme(bits, 32 if bits == 4 else 0)

    def reason_to_skip(self, name: str, role: str, columns: int) -> str:
        """Why a tensor stays as it is; empty if it is quantized."""
        if role == "other":
            return "no matrix product or vocabulary table"
        if role == "unused":
            return "not part of the task's graph"
        if any(fnmatchcase(name, pattern) for pattern in self.skip):
            return "named in skip"
        group = self.scheme(name, role).group_size
        if group and columns % group:
            return f"{columns} columns do not divide into groups of {group}"
        return ""

    def _layer(
        self, model: Model, name: str, role: str
    ) -> tuple[LayerReport, QuantizedTensor | None]:
        shape = model.weights.infos[name].shape
        reason = self.reason_to_skip(name, role, shape[-1] if shape else 0)
        if reason:
            return LayerReport(name, "skipped", reason), None
        weight = model.weights.float32(name)
        codes = quantize(weight, self.scheme(name, role), self.scale_search)
        lost, norm = (float(np.linalg.norm(w)) for w in (weight - codes.dequantize(), weight))
        return LayerReport(name, "changed", codes.scheme.name, lost / max(norm, 1e-30)), codes
