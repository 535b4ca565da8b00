"""What the loop asks of an objective: distillation is one more of them."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgecompile.train.order import Draw

Item = Mapping[str, Any]  # one row, tokenized: lists of numbers by name
Batch = Mapping[str, Any]  # tensors by name (and what else the objective needs)
Numbers = Mapping[str, float]
__all__ = ["Batch", "Draw", "Item", "Numbers", "Objective"]


class Objective(Protocol):
    """What is learned. The loop knows steps, gradients and files, and nothing of texts or labels.

    For a step it takes `draws`, makes `items` of them, and divides the sum of all parts' losses by
    the `weight` of all items: so parts and processes give the loss that one would.
    """

    measure: str  # the main one of its held-out metrics
    partial: bool  # whether a step may leave parameters without a gradient

    @property
    def rows(self) -> int:
        """Training rows: an epoch is so many draws."""
        ...

    def start(self, device: torch.device) -> None:
        """Called once before the first step; a teacher moves to the device here."""
        ...

    def draws(self, step: int, count: int) -> Sequence[Draw]:
        """The rows of step `step` (from 0), a function of the seed and the step alone."""
        ...

    def items(self, draws: Sequence[Draw]) -> Sequence[Item]:
        """The drawn rows, augmented and tokenized: the same for the same draws."""
        ...

    def weight(self, items: Sequence[Item]) -> float:
        """What the items' summed loss is divided by: how many rows, or tokens with a label."""
        ...

    def collate(self, items: Sequence[Item]) -> Batch:
        """Some of a step's items as tensors on the processor."""
        ...

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """The batch's loss, a sum over what `weight` counts, and other such sums by name."""
        ...

    def evaluate(self, module: nn.Module) -> Numbers:
        """Metrics on the held-out part, by name; empty where there is none. No gradients."""
        ...

    def better(self, new: Numbers, old: Numbers) -> bool:
        """Whether held-out metrics `new` are better than `old`."""
        ...
