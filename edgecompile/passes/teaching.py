"""What the passes share that learn from a teacher: losses, text, the teacher, training options."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.passes import Effort, Work
from edgecompile.passes.grid import in_range
from edgecompile.train.options import TrainOptions, parse

if TYPE_CHECKING:
    from edgecompile.train.loop import Fitted
    from edgecompile.train.objectives.distillation import Distillation

TASKS = ("embedding", "classification", "text-generation")


@dataclass(frozen=True)
class TeachingOptions:
    """Losses' weights, the teacher, how much text, and `[<name>.train]`: options of training.

    `soft` is the teacher's distribution at `temperature`, `task` the labels or the text itself,
    `hidden` and `relations` layers' outputs and attention relations. Labels are not needed but for
    `task`. `texts` 0: all of the calibration part.
    """

    name: ClassVar[str] = "teaching"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration", "tuning")
    reads_target: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}  # of training
    teacher: str = ""  # MODEL; empty: what the pass says
    soft: float = 1.0
    task: float = 0.0
    hidden: float = 0.0
    relations: float = 0.0
    temperature: float = 2.0
    heads: int = 12  # of relations
    texts: int = 0
    length: int = 128  # tokens
    tuning: int = 0  # texts or windows of the tuning part that measure; 0: 256, or 8,192 tokens
    cache_mb: float = 2000.0  # of the teacher's answers, on disk
    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        weights = {name: (getattr(self, name), 0.0, 1e6) for name in
                   ("soft", "task", "hidden", "relations")}  # fmt: skip
        in_range(
            self.name, **weights, temperature=(self.temperature, 1e-3, 1e3),
            heads=(self.heads, 1, 1e4), texts=(self.texts, 0, 1e9),
            length=(self.length, 2, 1e6), tuning=(self.tuning, 0, 1e9),
            cache_mb=(self.cache_mb, 0, 1e9),
        )  # fmt: skip
        if not any(value for value, _, _ in weights.values()):
            where, expected = f"[{self.name}]", "one of " + ", ".join(weights)
            raise UsageError(where, "every loss has weight 0", expected)
        self.options()

    def options(self) -> TrainOptions:
        """Options of the training loop."""
        return parse({**self.defaults, **self.train}, f"[{self.name}.train]")

    def effort(self, model: Model) -> Effort:
        """Forward and backward of every row; gradients and two moments a weight."""
        options = self.options()
        rows = options.steps * options.batch or options.epochs * (self.texts or 2000)
        products = 5.0 * model.parameters * rows * min(self.length, 64)
        return Effort(products, float(model.parameters), 16.0 * model.parameters)

    def refuse_other_tasks(self, model: Model) -> None:
        """UnsupportedError for a task that has no such losses."""
        if model.task not in TASKS:
            raise UnsupportedError(
                f"[{self.name}]", f"task {model.task}", f"one of {', '.join(TASKS)}",
                f'leave it out: --set {self.name}.method="none"',
            )  # fmt: skip

    def teacher_of(self, model: Model, work: Work, otherwise: Model) -> Model:
        """The model named, or the other."""
        if not self.teacher:
            return otherwise
        from edgecompile import sources

        ref = sources.resolve(self.teacher, task=model.task)
        found = sources.load(ref, work.progress)
        if found.pooling is None and model.pooling is not None:
            found = dataclasses.replace(found, pooling=model.pooling)
        return found


def note(name: str, fitted: Fitted, objective: Distillation, teacher: str) -> str:
    """A line on what was learned, and how well by the tuning part."""
    held = ", ".join(f"{name} {value:.4g}" for name, value in fitted.held_out.items())
    told = f"{name}: {fitted.step} steps on {objective.rows} rows, taught by {teacher}"
    return f"{told}; on the tuning part: {held}" if held else told
