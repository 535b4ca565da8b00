"""prune_activation: the units that give least on calibration text (Minitron)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompile.model import Model
from edgecompile.passes import Effort, Work
from edgecompile.passes.widths import MeasuredWidths, Scores
from edgecompile.pruning.axes import Shape


@dataclass(frozen=True)
class PruneActivation(MeasuredWidths):
    """Mean squares of what a unit gives to the products that read it; no label is needed."""

    name: ClassVar[str] = "prune_activation"

    def effort(self, model: Model) -> Effort:
        """A forward pass of each text."""
        products = 1.0 * model.parameters * self.texts * min(self.length, 64)
        return Effort(products, float(model.parameters))

    def scores(self, model: Model, shape: Shape, work: Work) -> Scores:
        """Mean squares of activations, float64 [units]."""
        from edgecompile.calibration.batches import text_batches
        from edgecompile.calibration.walk import fast_attention
        from edgecompile.pruning.importance import by_activation
        from edgecompile.reference import Reference

        documents = work.corpus().calibration
        batches = text_batches(model, documents, self.texts, self.length)
        body = Reference(model, fast_attention(model)).body

        def step(done: int) -> None:
            work.progress("measure importance", done, len(batches))

        found = by_activation(model, body, shape, batches, step)
        step(len(batches))
        return found
