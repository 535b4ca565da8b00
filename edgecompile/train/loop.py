"""The steps of a training run, whatever is learned: `fit` is all that others call."""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.errors import UnsupportedError
from edgecompile.train import checkpoints, parallel, precision, schedules
from edgecompile.train.gradients import LossScale, optimizer_of, shrink, total_norm
from edgecompile.train.metrics import METRICS, flush, read_rows, replace_text
from edgecompile.train.objectives import Batch, Item, Numbers, Objective
from edgecompile.train.options import TrainOptions
from edgecompile.train.order import seed_of
from edgecompile.train.stopping import refuse_not_finite, refuse_overflows


@dataclass(frozen=True)
class Row:
    """One step: `step` counts from 1; loss and `numbers` are averages over all rows or tokens."""

    step: int
    total: int
    epoch: float
    loss: float
    lr: float
    gradient_norm: float
    loss_scale: float
    numbers: Mapping[str, float]
    tokens_per_second: float = 0.0
    held_out: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a run keeps its checkpoints (None: nowhere), and who watches it.

    `fingerprint` names options, data and model: a checkpoint of another is not gone on with.
    """

    folder: Path | None = None
    fingerprint: str = ""
    resume: bool = True  # else what another run left is removed
    watch: Callable[[Row], None] = lambda _row: None


@dataclass(frozen=True)
class Fitted:
    """A finished run: the module with its weights, on the processor, in evaluation mode.

    `rows` are its steps, those before a resume included; `held_out` the last metrics (the best
    ones with keep = best, and `step` theirs); `main` is false in all processes but one.
    """

    module: nn.Module
    rows: tuple[Mapping[str, Any], ...]
    held_out: Mapping[str, float]
    step: int
    resumed: int
    main: bool


def steps(options: TrainOptions, rows: int) -> int:
    """How many steps a run over so many rows has."""
    return options.steps or max(1, math.ceil(options.epochs * rows / options.batch - 1e-9))


def fit(
    module: nn.Module, objective: Objective, options: TrainOptions, place: Place | None = None
) -> Fitted:
    """Train `module` for an objective; goes on from the checkpoint in `place`, if there is one."""
    with parallel.processes(options) as group:
        precision.refuse(options.precision, group.device)
        loop = Loop(module, objective, options, group, place or Place())
        with checkpoints.disk_errors(loop.place.folder or Path.cwd()):
            first = loop.resume()
            while loop.step < loop.total:
                loop.advance()
        return loop.finish(first)


class Loop:
    """A run on its way: the module as placed, its optimizer, and the step it is at."""

    def __init__(
        self, module: nn.Module, objective: Objective, options: TrainOptions,
        group: parallel.Processes, place: Place,
    ) -> None:  # fmt: skip
        self.objective, self.options, self.group, self.place = objective, options, group, place
        self.total = steps(options, objective.rows)
        self.epoch_steps = max(1, math.ceil(objective.rows / options.batch))
        if options.precision == "fp8":
            precision.to_fp8(module)
        if options.checkpointing:
            recompute(module)
        self.twin = parallel.twin(module, group)
        self.module = group.place(module, objective.partial).train()
        self.bare = parallel.bare(self.module)
        self.optimizer = optimizer_of(self.bare, options)
        self.scale = LossScale.of(options.precision)
        objective.start(group.device)
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_step, self.held_out = 0, dict[str, float]()

    # -- one step --------------------------------------------------------------------------------

    def advance(self) -> None:
        """One step, and what is due after it: an evaluation, a checkpoint."""
        begun = time.perf_counter()
        row = self._learn()
        done, options = self.step + 1, self.options
        seconds = time.perf_counter() - begun
        row["tokens_per_second"] = row.pop("tokens") / max(seconds, 1e-9)
        self.step = done
        if done == self.total or done % (options.evaluate_every or self.epoch_steps) == 0:
            row["held_out"] = self._evaluate()
        self.rows.append(row)
        self._record(row)
        if done < self.total and done % (options.save_every or self.epoch_steps) == 0:
            self.save()

    def _learn(self) -> dict[str, Any]:
        """The weights' update, and the step's numbers."""
        options, step = self.options, self.step
        # Dropout's draws depend on the step alone, so a resumed run repeats them.
        torch.manual_seed(seed_of(options.seed, step, self.group.reader))
        lr = schedules.rate(options, step, self.total)
        for one in self.optimizer.param_groups:
            one["lr"] = lr
        items = self.objective.items(self.objective.draws(step, options.batch))
        weight = max(self.objective.weight(items), 1e-9)
        sums = self._backward(items, weight)
        tokens = sums.pop("tokens")
        numbers = {name: value / weight for name, value in sums.items()}
        loss = numbers.pop("loss")
        norm = total_norm(self.bare) / self.scale.value
        self._update(loss, norm)
        return {
            "step": step + 1, "total": self.total,
            "epoch": (step + 1) * options.batch / self.objective.rows, "loss": loss, "lr": lr,
            "gradient_norm": norm, "loss_scale": self.scale.value, "numbers": numbers,
            "tokens": tokens,
        }  # fmt: skip

    def _backward(self, items: Any, weight: float) -> dict[str, float]:
        """Gradients of the step's mean loss; sums of all processes' numbers."""
        sums: dict[str, float] = {}
        parts = self.group.parts(items)
        for index, part in enumerate(parts):
            batch = moved(self.objective.collate(part), self.group.device)
            with self.group.later(self.module, last=index == len(parts) - 1):
                loss, numbers = self._loss(batch)
                # Processes' gradients are averaged, the loss is a sum over all of them.
                scaled = loss * (self.group.readers * self.scale.value / weight)
                torch.autograd.backward(scaled)
            own = {"loss": float(loss.detach()), "tokens": tokens_in(batch, part), **numbers}
            sums = {name: sums.get(name, 0.0) + value for name, value in own.items()}
        return self.group.add_up(sums)

    def _loss(self, batch: Batch) -> tuple[Tensor, Numbers]:
        with precision.autocast(self.options.precision, self.group.device):
            return self.objective.loss(self.module, batch)

    def _update(self, loss: float, norm: float) -> None:
        """Clip and step, or leave the step out where float16 overflowed."""
        finite = math.isfinite(norm) and math.isfinite(loss)
        if not self.scale.enabled:
            refuse_not_finite(self.step + 1, loss, norm, self._kept())
        if finite:
            shrink(self.bare, norm, self.options.clip, self.scale.value)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scale = self.scale.after(finite)
        refuse_overflows(self.step + 1, self.scale, self._kept())

    # -- around the steps ------------------------------------------------------------------------

    def _evaluate(self) -> dict[str, float]:
        """Held-out metrics in float32; the weights are kept if they are the best so far."""
        self.module.eval()
        with torch.no_grad():
            found = dict(self.objective.evaluate(self.bare))
        self.module.train()
        keep = self.options.keep == "best"
        if not keep or not self.held_out or self.objective.better(found, self.held_out):
            self.held_out, self.best_step = found, self.step
            self.best = checkpoints.weights_of(self.bare) if keep else {}
        return found

    def _record(self, row: dict[str, Any]) -> None:
        """A line in metrics.jsonl, and the watcher told."""
        if not self.group.main:
            return
        if self.place.folder:
            self.place.folder.mkdir(parents=True, exist_ok=True)
            with (self.place.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self.place.watch(Row(**row))

    def save(self) -> None:
        """A checkpoint of now; every process takes part, one writes."""
        if self.place.folder is None:
            return
        weights = checkpoints.weights_of(self.bare)
        moments = checkpoints.moments_of(self.bare, self.optimizer)
        state = {
            "step": self.step, "fingerprint": self.place.fingerprint, "scale": asdict(self.scale),
            "held_out": self.held_out, "best_step": self.best_step,
        }  # fmt: skip
        if self.group.main:
            flush(self.place.folder / METRICS)  # before the checkpoint that goes on after it
            one = checkpoints.Checkpoint(state, weights, moments, self.best)
            checkpoints.save(self.place.folder, one)
        self.group.wait()

    def resume(self) -> int:
        """Go on from the newest checkpoint; returns its step, 0 without one."""
        if self.place.folder and not self.place.resume:
            if self.group.main:
                checkpoints.remove_all(self.place.folder)
            self.group.wait()
        path = self._kept()
        self.rows = self._earlier(path)
        if path is None:
            return 0
        found = checkpoints.load(path, self.place.fingerprint)
        checkpoints.set_weights(self.bare, found.weights)
        checkpoints.set_moments(self.bare, self.optimizer, found.moments)
        self.scale = LossScale(**found.state["scale"])
        self.step, self.best = int(found.state["step"]), dict(found.best)
        self.held_out, self.best_step = found.state["held_out"], found.state["best_step"]
        return self.step

    def _earlier(self, path: Path | None) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl up to the checkpoint; what a killed run wrote after it goes."""
        if self.place.folder is None:
            return []
        file = self.place.folder / METRICS
        rows = read_rows(file, checkpoints.step_of(path) if path else 0)
        self.group.wait()
        if self.group.main and file.is_file():
            replace_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        self.group.wait()
        return rows

    def finish(self, resumed: int) -> Fitted:
        """The result with whole weights, the best ones where those were asked for."""
        weights = self.best or checkpoints.weights_of(self.bare)
        module = self.twin if self.twin is not None else self.bare
        module = module.to("cpu")
        checkpoints.set_weights(module, weights)
        best = self.best_step if self.best else self.step
        rows = tuple(self.rows)
        return Fitted(module.eval(), rows, self.held_out, best, resumed, self.group.main)

    def _kept(self) -> Path | None:
        return checkpoints.latest(self.place.folder) if self.place.folder else None


def recompute(module: nn.Module) -> None:
    """Have a transformers module keep its blocks' inputs alone, and compute the rest again."""
    enable = getattr(module, "gradient_checkpointing_enable", None)
    if enable is None or not getattr(module, "supports_gradient_checkpointing", False):
        found = f"{type(module).__name__} cannot compute activations again"
        raise UnsupportedError("train.checkpointing", found, way_out="train.checkpointing=false")
    enable({"use_reentrant": False})


def moved(batch: Batch, device: torch.device) -> dict[str, Any]:
    """The batch's tensors on the device; the rest as it is."""
    return {n: v.to(device) if isinstance(v, Tensor) else v for n, v in batch.items()}


def tokens_in(batch: Batch, items: Any) -> float:
    """How many tokens a batch has, padding left out; rows where there are none."""
    masks = [v for n, v in batch.items() if n.endswith("attention_mask")]
    return float(sum(int(mask.sum()) for mask in masks)) if masks else float(len(items))


__all__ = ["Fitted", "Item", "Place", "Row", "fit", "steps"]
