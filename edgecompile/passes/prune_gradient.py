"""prune_gradient: the units whose loss moves least when they go, to first order (Taylor)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompile.model import Model
from edgecompile.passes import Effort, Work
from edgecompile.passes.widths import MeasuredWidths, Scores
from edgecompile.pruning.axes import Shape


@dataclass(frozen=True)
class PruneGradient(MeasuredWidths):
    """First-order Taylor importance on calibration text (with its labels, where it has any)."""

    name: ClassVar[str] = "prune_gradient"

    def effort(self, model: Model) -> Effort:
        """A forward and a backward pass of each text; the gradients beside the weights."""
        products = 3.0 * model.parameters * self.texts * min(self.length, 64)
        return Effort(products, float(model.parameters), 8.0 * model.parameters)

    def scores(self, model: Model, shape: Shape, work: Work) -> Scores:
        """Mean squares of gradient x weight, float64 [units]."""
        from edgecompile.calibration.walk import fast_attention
        from edgecompile.pruning.importance import by_gradient
        from edgecompile.pruning.losses import Losses
        from edgecompile.reference import Reference

        reference = Reference(model, fast_attention(model))
        reference.body.requires_grad_(True)
        losses = Losses(reference, work.corpus().calibration, self.texts, self.length)

        def step(done: int) -> None:
            work.progress("measure importance", done, len(losses))

        found = by_gradient(model, reference.body, shape, losses, len(losses), step)
        step(len(losses))
        return found
