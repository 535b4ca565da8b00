"""prune_wanda: the weights go whose size times their input's norm is least; the rest stay."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgecompile.passes.sparsity import SparseOptions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PruneWanda(SparseOptions):
    """|W| |X|_2, compared within each output's row, or each N:M group of it (Sun et al. 2023)."""

    name: ClassVar[str] = "prune_wanda"

    def rule(self, weight: Tensor, hessian: Tensor) -> tuple[Tensor, str]:
        """The weight [out, in] with zeros; no other value changes."""
        from edgecompile.numerics.sparse import wanda

        return wanda(weight, hessian, self.zeros()), ""
