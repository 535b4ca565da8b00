"""Runs that cannot go on: what is said, and where the last good weights are."""
from __future__ import annotations

import math
from pathlib import Path

from edgecompile.errors import LimitError
from edgecompile.train.gradients import LossScale

MOST_SKIPPED = 32  # overflows one after the other: a scale of 2**16 has become 2**-16


def refuse_not_finite(step: int, loss: float, norm: float, kept: Path | None) -> None:
    """LimitError (6) at a loss or gradient that is no number; the weights are still good."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    found = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradients' norm is {norm}"
    raise LimitError(f"step {step}", found, "a finite number", _way_out(kept))


def refuse_overflows(step: int, scale: LossScale, kept: Path | None) -> None:
    """LimitError (6) when float16 overflows whatever the loss is divided by."""
    if scale.skipped < MOST_SKIPPED:
        return
    found = f"float16 overflowed {scale.skipped} times in a row, down to a scale of {scale.value:g}"
    raise LimitError(f"step {step}", found, "a finite loss", _way_out(kept, "precision=bfloat16"))


def _way_out(kept: Path | None, other: str = "lr=1e-5") -> str:
    place = f"; the last checkpoint is {kept}" if kept else ""
    return f"look at the data and lower train.lr, for example --set train.{other}{place}"
