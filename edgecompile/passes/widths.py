"""What the passes that cut widths share: the budget, the cut, the smaller checkpoint."""
from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgecompile.config import nearest
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import in_range
from edgecompile.pruning.axes import KINDS, Lever, Shape, shape_of, smaller_config
from edgecompile.pruning.budget import Budget, resized, smaller_shapes, widths_for

if TYPE_CHECKING:
    from torch import Tensor

Scores = Mapping[str, NDArray[np.float64]]  # by an axis's key: [units]


@dataclass(frozen=True)
class WidthOptions:
    """A budget (one of ratio, max_params, max_size), and by which levers it is met.

    `ratio` is of the blocks' parameters; `max_size` in MB of the checkpoint. Levers: heads, mlp,
    hidden; none named: all that the architecture and the task allow.
    """

    name: ClassVar[str] = "prune"
    reads_text: ClassVar[tuple[str, ...]] = ()
    reads_target: ClassVar[bool] = False
    ratio: float = 0.0
    max_params: int = 0
    max_size: float = 0.0
    floor: float = 0.25
    multiple: int = 32
    levers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        self._budget()
        if self.multiple < 1:
            raise UsageError(f"[{self.name}]", f"multiple = {self.multiple}", "1 or more")
        for lever in self.levers:
            if lever not in KINDS:
                raise UsageError(f"[{self.name}] levers", repr(lever), nearest(lever, KINDS))

    def headers(self, model: Model) -> Model:
        """The smaller model's headers and config, where all units are worth the same."""
        shape = shape_of(model, self.multiple)
        even = {kind: 1 - np.arange(units + 1) / units for kind, units in shape.widths.items()}
        widths = widths_for(model, shape, self._budget(), self._levers(model, shape), even)
        shapes = smaller_shapes(model, shape, widths)
        config = smaller_config(model, shape, widths)
        return dataclasses.replace(model, weights=resized(model, shapes), config=config)

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def effort(self, model: Model) -> Effort:
        """Every weight is read once, and the smaller model written."""
        return Effort(rounded=float(model.parameters))

    def scores(self, model: Model, shape: Shape, work: Work) -> Scores:
        """What each unit is worth, by an axis's key."""
        raise NotImplementedError

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Write the smaller checkpoint; the model is that from here on."""
        import torch

        from edgecompile.pruning import checkpoint
        from edgecompile.pruning.importance import lost, strongest

        shape = shape_of(model, self.multiple)
        levers = self._levers(model, shape)
        scores = self.scores(model, shape, work)
        _refuse_not_finite(scores, self.name)
        widths = widths_for(model, shape, self._budget(), levers, dict(lost(scores, shape.axes)))
        kept = {
            axis.key: torch.from_numpy(strongest(scores[axis.key], widths[axis.kind]))
            for axis in shape.axes
        }
        folder, rows, names = work.folder / CHECKPOINT, list[LayerReport](), list(model.weights)
        shutil.rmtree(folder, ignore_errors=True)

        def tensor(name: str) -> torch.Tensor:
            work.progress("prune", len(rows), len(names))
            smaller = checkpoint.cut(model, shape, kept, name)
            rows.append(_row(name, model.weights[name], smaller))
            return smaller

        config = smaller_config(model, shape, widths)
        checkpoint.write(model, folder, config, names, tensor)
        work.progress("prune", len(names), len(names))
        note = f"{self.name}: {', '.join(_changes(shape.widths, widths))}"
        (work.folder / NOTE).write_text(note, encoding="utf-8")
        model.weights.release()
        return PassResult(checkpoint.adopt(model, folder, note), tuple(rows))

    def _budget(self) -> Budget:
        return Budget(self.ratio, self.max_params, self.max_size, self.floor)

    def _levers(self, model: Model, shape: Shape) -> tuple[Lever, ...]:
        there = [lever.name for lever in shape.levers]
        for name in self.levers:
            if name not in there:
                found = f"lever {name!r} for {model.task} of {model.architecture}"
                raise UsageError(f"[{self.name}] levers", found, f"one of {', '.join(there)}")
        return tuple(lever for lever in shape.levers if lever.name in (self.levers or there))


@dataclass(frozen=True)
class MeasuredWidths(WidthOptions):
    """What a unit is worth is measured on calibration text: how much of it."""

    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    texts: int = 256  # or windows of a decoder
    length: int = 256  # tokens

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        super().__post_init__()
        in_range(self.name, texts=(self.texts, 1, 1e6), length=(self.length, 2, 1e6))


def _refuse_not_finite(scores: Scores, name: str) -> None:
    for key, values in scores.items():
        if not np.isfinite(values).all():
            raise UsageError(f"[{name}]", f"importance of {key} is not finite", "finite weights")


def _changes(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[str]:
    for kind, units in before.items():
        yield f"{kind} {units} -> {after[kind]}" if units != after[kind] else f"{kind} {units}"


def _row(name: str, before: Tensor, after: Tensor) -> LayerReport:
    if before.shape == after.shape:
        return LayerReport(name, "skipped", "no axis that was cut runs through it")
    whole, left = (float(tensor.double().square().sum()) for tensor in (before, after))
    error = math.sqrt(max(0.0, 1 - left / whole)) if whole else 0.0
    return LayerReport(name, "changed", f"{list(before.shape)} -> {list(after.shape)}", error)
