"""What may be set in a recipe's `[train]`, and its tables."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgecompile.config import Table, make
from edgecompile.errors import UnsupportedError, UsageError

Precision = Literal["float32", "bfloat16", "float16", "fp8"]
Schedule = Literal["linear", "cosine", "exponential", "constant"]
Parallel = Literal["data", "fsdp", "tensor"]


@dataclass(frozen=True)
class LoraOptions:
    """`[train.lora]`: low-rank adapters in place of all weights (Hu et al. 2021); rank 0 is off."""

    rank: int = 0
    alpha: int = 16  # adapters are scaled by alpha / rank
    dropout: float = 0.0
    targets: tuple[str, ...] = ()  # ends of module names; empty: peft's choice, else all linear


@dataclass(frozen=True)
class TaskOptions:
    """`[train.tasks.NAME]`: one head of several, with its data and its weight in the loss."""

    data: str
    task: Literal["classification", "token-classification", "text-ranking"] = "classification"
    held_out: str = ""  # a file; empty: a part of `data`
    text: str = "text"
    pair: str = ""
    label: str = "label"
    weight: float = 1.0


@dataclass(frozen=True)
class TrainOptions:
    """`[train]` of a recipe. A step is one update of the weights, on `batch` rows."""

    epochs: float = 3.0
    steps: int = 0  # above 0: in place of epochs
    batch: int = 32  # rows a step, over all processes and parts
    accumulate: int = 1  # parts in which a process takes its rows, one after the other
    length: int = 0  # tokens a text at most; 0: what the model says, at most 512
    lr: float = 5e-5
    schedule: Schedule = "linear"
    final_lr: float = 0.0  # where the schedule ends, as a share of lr
    warmup: float = 0.1  # share of the steps in which the rate rises to lr
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 1.0  # largest norm of all gradients together; 0: no limit
    label_smoothing: float = 0.0
    dropout: float = -1.0  # of the whole model; below 0: what its config says
    precision: Precision = "float32"
    checkpointing: bool = False  # compute activations twice instead of keeping them
    parallel: Parallel = "data"
    seed: int = 0
    threads: int = 0  # of torch; 0: the usable cores, shared among the processes of a machine
    held_out: float = 0.1  # share of the rows, where no file is given
    evaluate_every: int = 0  # steps; 0: once an epoch
    save_every: int = 0  # steps between checkpoints; 0: once an epoch
    keep: Literal["last", "best"] = "last"  # which weights are saved
    pair: str = ""  # column or key of the second text of a pair, or of the answer to a text
    temperature: float = 1.0  # of sampling among tasks: shares are rows ** (1 / temperature)
    mask: float = 0.15  # share of the tokens that fill-mask has to guess
    contrast: float = 0.05  # temperature of the similarities among an embedding's pairs
    lora: LoraOptions = field(default_factory=LoraOptions)
    tasks: Mapping[str, TaskOptions] = field(default_factory=dict)
    augment: Mapping[str, Any] = field(default_factory=dict)  # options of train/augment

    def __post_init__(self) -> None:
        """Refuse numbers outside their range, all at once."""
        problems = [text for name, low, high in RANGES if (text := self._outside(name, low, high))]
        if problems:
            raise UsageError("[train]", "; ".join(problems), way_out="correct the values above")
        if self.lora.rank and (self.tasks or self.parallel == "tensor"):
            what = "several tasks" if self.tasks else "parallel=tensor"
            raise UnsupportedError("[train.lora]", f"adapters with {what}", "one of the two")

    def _outside(self, name: str, low: float, high: float) -> str:
        value = getattr(self, name)
        inside = math.isfinite(value) and low <= value <= high
        return "" if inside else f"{name} = {value} is not in [{low:g}, {high:g}]"


RANGES = (
    ("epochs", 1e-6, 1e6), ("steps", 0, 1e9), ("batch", 1, 1e6), ("accumulate", 1, 1e6),
    ("length", 0, 1e6), ("lr", 0, 1e3), ("final_lr", 0, 1), ("warmup", 0, 1),
    ("weight_decay", 0, 1e3), ("beta1", 0, 0.999999), ("beta2", 0, 0.9999999),
    ("epsilon", 1e-20, 1), ("clip", 0, 1e6), ("label_smoothing", 0, 0.999), ("dropout", -1, 0.999),
    ("threads", 0, 4096), ("held_out", 0, 0.9), ("evaluate_every", 0, 1e9), ("save_every", 0, 1e9),
    ("seed", 0, 2**63 - 1), ("temperature", 1e-3, 1e6), ("mask", 1e-3, 0.999),
    ("contrast", 1e-4, 10),
)  # fmt: skip


def parse(table: Table, where: str = "[train]") -> TrainOptions:
    """Options from a `[train]` table; unknown keys are reported with the nearest known name."""
    values = dict(table)
    if isinstance(lora := values.get("lora"), Mapping):
        values["lora"] = make(LoraOptions, lora, f"{where} [lora]")
    if isinstance(tasks := values.get("tasks"), Mapping):
        values["tasks"] = {
            name: make(TaskOptions, task, f"{where} [tasks.{name}]")
            for name, task in tasks.items() if isinstance(task, Mapping)
        }  # fmt: skip
    return make(TrainOptions, values, where)
