"""distill_codes: codes and scales learn from the float model what rounding took (QAD)."""
from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgecompile import codes
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import LayerReport, PassResult, Work
from edgecompile.passes.teaching import TeachingOptions, note
from edgecompile.structure import roles

if TYPE_CHECKING:
    from edgecompile.train.codes import Learned
    from edgecompile.train.loop import Fitted
    from edgecompile.train.objectives.distillation import Distillation


@dataclass(frozen=True)
class DistillCodes(TeachingOptions):
    """Options of teaching, and what is learned besides codes.

    It runs after quantizing and begins with what that chose, on the same schemes. The teacher is
    the same model in floats. `train.lr` is in codes: about how far AdamW moves one in a step.
    """

    name: ClassVar[str] = "distill_codes"
    # Sums are cut by the number of threads: a fixed one gives the same bytes.
    defaults: ClassVar[Mapping[str, Any]] = {
        "lr": 0.01, "epochs": 1.0, "batch": 32, "dropout": 0.0, "threads": 4, "weight_decay": 0.0,
    }  # fmt: skip
    temperature: float = 1.0
    scales: bool = True  # learned as well
    floats: bool = True  # norms and biases as well
    embedding: bool = False  # the vocabulary's table (and a head tied to it) as well
    skip: tuple[str, ...] = ()  # patterns of tensors whose codes stay

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        super().__post_init__()
        options, where = self.options(), f"[{self.name}.train]"
        if options.weight_decay:
            found = f"weight_decay = {options.weight_decay:g} pulls codes to 0"
            raise UsageError(where, found, "weight_decay = 0")
        if options.precision == "fp8":
            raise UnsupportedError(where, "precision = fp8", "float32, bfloat16 or float16")

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets another scheme; UnsupportedError for a task without such losses."""
        self.refuse_other_tasks(model)
        return {}

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Train, and write codes; a killed run goes on from its last step kept."""
        from edgecompile.train import distilling
        from edgecompile.train.codes import install
        from edgecompile.train.loop import Place, fit

        self.refuse_other_tasks(model)
        self._refuse_model(model)
        chosen, floats = self._chosen(model), self._floats(model)
        teacher = self.teacher_of(model, work, dataclasses.replace(model, origin=None))
        student, objective = distilling.prepared(self, model, teacher, work)
        learned = install(student, model.quantized, model.replaced, chosen, floats, self.scales)
        training = work.folder / "training"
        place = Place(
            training, fingerprint=f"{model.source.digest} {teacher.source.digest} {self!r}",
            watch=lambda row: work.progress("distill codes", row.step, row.total),
        )  # fmt: skip
        fitted = fit(student, objective, self.options(), place)
        result = self._written(model, work, learned, _note(self, fitted, objective))
        for used in (training, work.folder / distilling.TEACHER):
            shutil.rmtree(used, ignore_errors=True)
        model.weights.release()
        return result

    def _refuse_model(self, model: Model) -> None:
        """Without codes there is nothing to learn; 8-bit activations would have to be learned."""
        where = f"[{self.name}]"
        if not model.quantized:
            raise UsageError(
                where, f"no tensor of {model.name} has codes", "codes from [quantize]",
                "--set quantize.method=gptq",
            )  # fmt: skip
        if model.activations:
            raise UnsupportedError(
                where, "8-bit activations, whose ranges are not learned", "weights alone",
                "--set quantize.method=gptq",
            )  # fmt: skip

    def _chosen(self, model: Model) -> list[str]:
        """The tensors whose codes are learned; UsageError for none."""
        kinds = roles(model)
        found = [name for name in model.quantized if not self._stays(name, kinds[name])]
        if not found:
            raise UsageError(
                f"[{self.name}]", "no tensor's codes are to be learned", "at least one matrix",
                "look at skip and embedding",
            )  # fmt: skip
        return found

    def _stays(self, name: str, role: str) -> str:
        """Why a tensor's codes are not learned; empty if they are."""
        if role == "embedding" and not self.embedding:
            return "embedding = false"
        return "named in skip" if any(fnmatchcase(name, one) for one in self.skip) else ""

    def _floats(self, model: Model) -> list[str]:
        """Norms and biases: vectors of the task's graph that have no codes."""
        if not self.floats:
            return []
        return [name for name, role in roles(model).items()
                if role == "other" and len(model.weights.infos[name].shape) == 1
                and name not in model.quantized]  # fmt: skip

    def _written(self, model: Model, work: Work, learned: Learned, told: str) -> PassResult:
        """Parts as a quantize pass leaves them: every tensor that has codes, learned or not."""
        rows = [LayerReport(self.name, "skipped", told)]
        kinds = roles(model)
        for number, name in enumerate(model.quantized):
            before, weight = model.quantized[name], learned.codes.get(name)
            after = weight.exported() if weight else before
            why = self._stays(name, kinds[name])
            rows.append(LayerReport(name, "skipped", why) if why else _row(name, before, after))
            codes.add_part(work.folder, number, codes.Part({name: after}))
        floats = {name: one().detach().numpy() for name, one in learned.floats.items()}
        codes.add_part(work.folder, len(model.quantized), codes.Part({}, floats))
        rows += [_float_row(name, model, values) for name, values in floats.items()]
        quantized, replaced = codes.load(work.folder)
        replaced = {**model.replaced, **replaced}
        changed = dataclasses.replace(model, quantized=quantized, replaced=replaced)
        return PassResult(changed, tuple(rows))


def _note(options: DistillCodes, fitted: Fitted, objective: Distillation) -> str:
    teacher = options.teacher or "the model in floats"
    return note(options.name, fitted, objective, teacher)


def _row(name: str, before: QuantizedTensor, after: QuantizedTensor) -> LayerReport:
    """How many codes moved, and |after - before| / |before| of the weight that they stand for."""
    moved = float(np.count_nonzero(before.codes != after.codes)) / before.codes.size
    detail = f"{after.scheme.name}, {moved:.2%} of codes moved"
    change = _change(before.dequantize(), after.dequantize())
    return LayerReport(name, "changed", detail, change)


def _float_row(name: str, model: Model, after: Float32) -> LayerReport:
    before = model.replaced[name] if name in model.replaced else model.weights.float32(name)
    return LayerReport(name, "changed", "trained", _change(before, after))


def _change(before: Float32, after: Float32) -> float:
    norm = math.sqrt(float(np.square(before, dtype=np.float64).sum()))
    return float(np.linalg.norm(after - before)) / max(norm, 1e-30)
