"""distill: the model learns what pruning took from it, from the model that came in or another."""
from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import in_range
from edgecompile.train.options import TrainOptions, parse

if TYPE_CHECKING:
    from torch import Tensor

    from edgecompile.train.loop import Fitted
    from edgecompile.train.objectives.distillation import Distillation

TASKS = ("embedding", "classification", "text-generation")
# Of [distill.train]. Sums are cut by the number of threads: a fixed one gives the same bytes.
DEFAULTS = {"lr": 2e-4, "epochs": 4.0, "batch": 32, "dropout": 0.0, "threads": 4}


@dataclass(frozen=True)
class Distill:
    """Losses' weights, the teacher, how much text, and `[distill.train]`: options of training.

    `soft` is the teacher's distribution at `temperature`, `task` the labels or the text itself,
    `hidden` and `relations` layers' outputs and attention relations. Labels are not needed but for
    `task`. `texts` 0: all of the calibration part.
    """

    name: ClassVar[str] = "distill"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration", "tuning")
    reads_target: ClassVar[bool] = False
    teacher: str = ""  # MODEL; empty: what came in
    soft: float = 1.0
    task: float = 0.0
    hidden: float = 0.0
    relations: float = 0.0
    temperature: float = 2.0
    heads: int = 12  # of relations
    texts: int = 0
    length: int = 128  # tokens
    cache_mb: float = 2000.0  # of the teacher's answers, on disk
    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        weights = {name: (getattr(self, name), 0.0, 1e6) for name in
                   ("soft", "task", "hidden", "relations")}  # fmt: skip
        in_range(
            self.name, **weights, temperature=(self.temperature, 1e-3, 1e3),
            heads=(self.heads, 1, 1e4), texts=(self.texts, 0, 1e9),
            length=(self.length, 2, 1e6), cache_mb=(self.cache_mb, 0, 1e9),
        )  # fmt: skip
        if not any(value for value, _, _ in weights.values()):
            raise UsageError("[distill]", "every loss has weight 0", "one of " + ", ".join(weights))
        self.options()

    def options(self) -> TrainOptions:
        """Options of the training loop."""
        return parse({**DEFAULTS, **self.train}, "[distill.train]")

    def headers(self, model: Model) -> Model:
        """The same shapes; UnsupportedError for a task that has no such losses."""
        if model.task not in TASKS:
            raise UnsupportedError(
                "[distill]", f"task {model.task}", f"one of {', '.join(TASKS)}",
                'leave it out: --set distill.method="none"',
            )  # fmt: skip
        return model

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def effort(self, model: Model) -> Effort:
        """Forward and backward of every row; gradients and two moments a weight."""
        options = self.options()
        rows = options.steps * options.batch or options.epochs * (self.texts or 2000)
        products = 5.0 * model.parameters * rows * min(self.length, 64)
        return Effort(products, float(model.parameters), 16.0 * model.parameters)

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Train, and write the checkpoint; a killed run goes on from its last step kept."""
        from edgecompile.pruning import checkpoint
        from edgecompile.train import distilling
        from edgecompile.train.loop import Place, fit

        self.headers(model)
        options = self.options()
        origin = self._teacher(model, work)
        student, objective = distilling.prepared(self, model, origin, work)
        training = work.folder / "training"
        place = Place(
            training, fingerprint=f"{model.source.digest} {origin.source.digest} {self!r}",
            watch=lambda row: work.progress("distill", row.step, row.total),
        )  # fmt: skip
        fitted = fit(student, objective, options, place)
        rows, folder = [], work.folder / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        trained = distilling.tensors(fitted.module, model)

        def tensor(name: str) -> Tensor:
            after = trained.get(name)
            rows.append(_row(name, model, after))
            return model.weights[name] if after is None else after

        checkpoint.write(model, folder, model.config, list(model.weights), tensor)
        note = _note(fitted, objective, origin is model)
        (work.folder / NOTE).write_text(note, encoding="utf-8")
        shutil.rmtree(training, ignore_errors=True)
        model.weights.release()
        return PassResult(checkpoint.adopt(model, folder, note), tuple(rows))

    def _teacher(self, model: Model, work: Work) -> Model:
        """The model named, else the one that came in, else the student as it is now."""
        if not self.teacher:
            return model.origin or model
        from edgecompile import sources

        ref = sources.resolve(self.teacher, task=model.task)
        found = sources.load(ref, work.progress)
        if found.pooling is None and model.pooling is not None:
            found = dataclasses.replace(found, pooling=model.pooling)
        return found


def _row(name: str, model: Model, after: Tensor | None) -> LayerReport:
    if after is None:
        return LayerReport(name, "skipped", "not part of the task's graph")
    before = model.weights[name].float()
    norm = float(before.norm())
    error = float((after.float() - before).norm()) / norm if norm else 0.0
    return LayerReport(name, "changed", "trained", error)


def _note(fitted: Fitted, objective: Distillation, itself: bool) -> str:
    teacher = "itself" if itself else "its teacher"
    held = ", ".join(f"{name} {value:.4g}" for name, value in fitted.held_out.items())
    told = f"distill: {fitted.step} steps on {objective.rows} rows, taught by {teacher}"
    return f"{told}; on the tuning part: {held}" if held else told
