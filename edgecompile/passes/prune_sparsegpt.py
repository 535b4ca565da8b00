"""prune_sparsegpt: weights go that cost least, and those that stay make up for them."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgecompile.errors import BadInputError
from edgecompile.numerics.gptq import LARGEST_DAMPING
from edgecompile.passes.grid import in_range
from edgecompile.passes.sparsity import SparseOptions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PruneSparsegpt(SparseOptions):
    """SparseGPT (Frantar and Alistarh 2023, algorithm 1).

    `block` columns share one choice of zeros; `damping` is added to the Hessian's diagonal as a
    share of its mean.
    """

    name: ClassVar[str] = "prune_sparsegpt"
    damping: float = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        super().__post_init__()
        in_range(
            self.name, damping=(self.damping, 0, LARGEST_DAMPING), block=(self.block, 1, 1e6)
        )

    def rule(self, weight: Tensor, hessian: Tensor) -> tuple[Tensor, str]:
        """The weight [out, in] with zeros and changed values; the damping where it was raised."""
        from edgecompile.numerics.sparse import sparsegpt

        try:
            found, damping = sparsegpt(weight, hessian, self.zeros(), self.damping, self.block)
        except ValueError as error:
            raise BadInputError(
                self.name, str(error), "inputs whose products have a factor", "give more text"
            ) from error
        return found, f", damping raised to {damping:g}" if damping != self.damping else ""
