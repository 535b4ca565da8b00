"""The learning rate at a step: a linear warm-up, then a decay. No state, so nothing to save."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from edgecompile.train.options import TrainOptions

LEAST = 1e-3  # where an exponential decay ends that was asked to end at 0


def _linear(done: float, end: float) -> float:
    return 1 - (1 - end) * done


def _cosine(done: float, end: float) -> float:
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


def _exponential(done: float, end: float) -> float:
    return float(max(end, LEAST) ** done)


def _constant(_done: float, _end: float) -> float:
    return 1.0


# share of the steps done after the warm-up, the share of lr to end at -> share of lr
DECAYS: Mapping[str, Callable[[float, float], float]] = {
    "linear": _linear, "cosine": _cosine, "exponential": _exponential, "constant": _constant,
}  # fmt: skip


def rate(options: TrainOptions, step: int, total: int) -> float:
    """The learning rate of step `step` (from 0) of `total`; never 0 before the last one."""
    warm = math.ceil(options.warmup * total)
    if step < warm:
        return options.lr * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return options.lr * DECAYS[options.schedule](done, options.final_lr)
