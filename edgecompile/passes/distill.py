"""distill: the model learns what pruning took from it, from the model that came in or another."""
from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, LayerReport, PassResult, Work
from edgecompile.passes.teaching import TeachingOptions, note

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Distill(TeachingOptions):
    """Options of teaching; the teacher is the model that came in before pruning."""

    name: ClassVar[str] = "distill"
    # Sums are cut by the number of threads: a fixed one gives the same bytes.
    defaults: ClassVar[Mapping[str, Any]] = {
        "lr": 2e-4, "epochs": 4.0, "batch": 32, "dropout": 0.0, "threads": 4,
    }  # fmt: skip

    def headers(self, model: Model) -> Model:
        """The same shapes; UnsupportedError for a task that has no such losses."""
        self.refuse_other_tasks(model)
        return model

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Train, and write the checkpoint; a killed run goes on from its last step kept."""
        from edgecompile.pruning import checkpoint
        from edgecompile.train import distilling
        from edgecompile.train.loop import Place, fit

        self.headers(model)
        options = self.options()
        origin = self.teacher_of(model, work, model.origin or model)
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
        told = note(self.name, fitted, objective, "itself" if origin is model else "its teacher")
        (work.folder / NOTE).write_text(told, encoding="utf-8")
        for used in (training, work.folder / distilling.TEACHER):
            shutil.rmtree(used, ignore_errors=True)
        model.weights.release()
        return PassResult(checkpoint.adopt(model, folder, told), tuple(rows))


def _row(name: str, model: Model, after: Tensor | None) -> LayerReport:
    if after is None:
        return LayerReport(name, "skipped", "not part of the task's graph")
    before = model.weights[name].float()
    norm = float(before.norm())
    error = float((after.float() - before).norm()) / norm if norm else 0.0
    return LayerReport(name, "changed", "trained", error)
