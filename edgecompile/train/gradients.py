"""Gradients: AdamW's groups, the norm of all, clipping, the scale of float16's losses."""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from edgecompile.train.options import Precision, TrainOptions
from edgecompile.train.parallel import whole

FIRST_SCALE = 2.0**16
GROW_AFTER = 2000  # good steps


@dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018, section 3.2), as torch's GradScaler does it.

    That one looks for overflows in each process's part of the gradients alone; here the norm of
    all gradients decides, which is one number for all processes, however they share the model.
    """

    enabled: bool = False
    value: float = 1.0
    good: int = 0  # steps since it last changed
    skipped: int = 0  # steps left out, one after the other

    @classmethod
    def of(cls, precision: Precision) -> LossScale:
        """The first scale: 1 and unchanging for all but float16."""
        return cls(True, FIRST_SCALE) if precision == "float16" else cls()

    def after(self, finite: bool) -> LossScale:
        """Halved at an overflow, doubled after GROW_AFTER steps without one."""
        if not self.enabled:
            return self
        if not finite:
            return replace(self, value=self.value / 2, good=0, skipped=self.skipped + 1)
        grown = self.good + 1 >= GROW_AFTER
        value, good = (self.value * 2, 0) if grown else (self.value, self.good + 1)
        return replace(self, value=value, good=good, skipped=0)


def optimizer_of(module: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and norms do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            # torch's loops over many tensors at once take cut-up ones or whole ones, not both
            kind = parameter.ndim > 1, isinstance(parameter, DTensor)
            groups.setdefault(kind, []).append(parameter)
    tables: list[dict[str, Any]] = [
        {"params": found, "weight_decay": options.weight_decay if kind[0] else 0.0}
        for kind, found in groups.items()
    ]
    betas = options.beta1, options.beta2
    return torch.optim.AdamW(
        tables, lr=options.lr, betas=betas, eps=options.epsilon, fused=True
    )


def total_norm(module: nn.Module) -> float:
    """The Euclidean norm of all gradients together, the same number in every process."""
    cut, plain = list[Tensor](), list[Tensor]()
    for gradient in _gradients(module):
        (cut if isinstance(gradient, DTensor) else plain).append(gradient)
    norms = [whole(torch.nn.utils.get_total_norm(kind)) for kind in (cut, plain) if kind]
    return math.hypot(*(float(norm) for norm in norms))


def shrink(module: nn.Module, norm: float, most: float, scale: float) -> None:
    """Undo the loss's scale and cut the gradients' norm to `most` (0: no limit)."""
    factor = min(1.0, most / max(norm, 1e-12)) if most else 1.0
    if factor / scale != 1.0:
        for gradient in _gradients(module):
            gradient.mul_(factor / scale)


def _gradients(module: nn.Module) -> Iterable[Tensor]:
    return (one.grad for one in module.parameters() if one.grad is not None)
