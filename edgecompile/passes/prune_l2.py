"""prune_l2: the units with the smallest weights go; no text is read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompile.model import Model
from edgecompile.passes import Work
from edgecompile.passes.widths import Scores, WidthOptions
from edgecompile.pruning.axes import Shape


@dataclass(frozen=True)
class PruneL2(WidthOptions):
    """Structured L2 norm: head groups, MLP neurons and hidden channels by their weights."""

    name: ClassVar[str] = "prune_l2"

    def scores(self, model: Model, shape: Shape, work: Work) -> Scores:
        """Sums of squares, float64 [units]."""
        from edgecompile.pruning.importance import by_norm

        return by_norm(model, shape)
