"""Several heads on one body: a step is of one task, drawn by how many rows each has."""
from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompile.train.objectives import Batch, Draw, Item, Numbers, Objective


class Heads(nn.Module):
    """Modules of transformers that share the body of the first: forward(head=name, ...)."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(modules)
        first: Any = next(iter(modules.values()))
        for module in modules.values():
            setattr(module, first.base_model_prefix, getattr(first, first.base_model_prefix))

    def forward(self, head: str, **inputs: Tensor) -> Any:
        """What the head's module gives."""
        return self.heads[head](**inputs)


@dataclass
class Several:
    """`weights` of the tasks' losses; shares of the steps are rows ** (1 / temperature).

    Temperature 1 draws by size, a large one all tasks alike (Raffel et al. 2020, section 3.5.2).
    """

    objectives: Mapping[str, Objective]
    weights: Mapping[str, float]
    temperature: float = 1.0
    seed: int = 0
    measure: str = "mean"
    partial: bool = True  # a step leaves the other heads without gradients

    @property
    def rows(self) -> int:
        """Of all tasks together."""
        return sum(one.rows for one in self.objectives.values())

    def start(self, device: torch.device) -> None:
        """Start every task's objective."""
        for one in self.objectives.values():
            one.start(device)

    def draws(self, step: int, count: int) -> Sequence[Draw]:
        """Rows of the step's task; `row` counts through all tasks."""
        tasks = self._tasks(step + 1)
        task = int(tasks[step])
        before = int((tasks[:step] == task).sum())
        names = list(self.objectives)
        first = sum(self.objectives[name].rows for name in names[:task])
        found = self.objectives[names[task]].draws(before, count)
        return [Draw(first + one.row, one.seen) for one in found]

    def _tasks(self, steps: int) -> NDArray[np.int64]:
        """The number of each step's task: the same beginning for any number of steps."""
        rows = np.array([one.rows for one in self.objectives.values()], np.float64)
        shares = rows ** (1 / self.temperature)
        edges = np.cumsum(shares / shares.sum())[:-1]
        drawn = np.random.default_rng((self.seed, 1)).random(steps)
        return np.searchsorted(edges, drawn, side="right").astype(np.int64)

    def items(self, draws: Sequence[Draw]) -> Sequence[Item]:
        """The task's items; each knows its task."""
        first = 0
        for name, objective in self.objectives.items():
            if draws[0].row < first + objective.rows:
                own = [Draw(draw.row - first, draw.seen) for draw in draws]
                return [{**item, "head": name} for item in objective.items(own)]
            first += objective.rows
        raise AssertionError(f"row {draws[0].row} of {first}")

    def weight(self, items: Sequence[Item]) -> float:
        """As the task's objective has it."""
        return self.objectives[items[0]["head"]].weight(items)

    def collate(self, items: Sequence[Item]) -> Batch:
        """The task's tensors, and its name."""
        head = items[0]["head"]
        return {**self.objectives[head].collate(items), "head": head}

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """The task's loss times its weight; numbers under the task's name."""
        head = batch["head"]
        inputs = {name: value for name, value in batch.items() if name != "head"}
        loss, numbers = self.objectives[head].loss(bound(module, head), inputs)
        named = {f"{head}/{name}": value for name, value in numbers.items()}
        return loss * self.weights[head], {**named, f"{head}/loss": float(loss.detach())}

    def evaluate(self, module: nn.Module) -> Numbers:
        """Every task's metrics under its name, and the mean of their main measures."""
        found: dict[str, float] = {}
        mains = []
        for head, objective in self.objectives.items():
            numbers = objective.evaluate(bound(module, head))
            found |= {f"{head}/{name}": value for name, value in numbers.items()}
            mains.append(numbers.get(objective.measure, 0.0))
        return {**found, "mean": float(np.mean(mains))} if found else {}

    def better(self, new: Numbers, old: Numbers) -> bool:
        """By the mean of the tasks' main measures."""
        return new.get("mean", 0.0) > old.get("mean", 0.0)


def bound(module: nn.Module, head: str) -> Any:
    """The module as one that has this head alone."""
    return functools.partial(module, head=head)
