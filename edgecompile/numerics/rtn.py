"""Round to nearest on the grid, each group's scale searched for the least weighted square error."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgecompile.numerics.parallel import one_thread_a_piece, pieces, run_all
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme, representable_scale

SHRINK = np.linspace(1.0, 0.7, 13, dtype=np.float32)  # candidates, as shares of the absmax scale
PIECE = 1 << 17  # elements quantized at a time by one thread: stays in the second-level cache


def quantize(
    weight: Float32, scheme: Scheme, search: bool = True, importance: Float32 | None = None
) -> QuantizedTensor:
    """Codes for a weight [out, in] on `scheme`; raises ValueError where groups do not divide.

    With `search`, each group takes the scale among SHRINK * absmax / high that makes
    sum importance * (w - code * scale)^2 least; without it, absmax / high. `importance` float32
    [in] is the mean square of the layer's inputs; without it every column counts the same.
    """
    out, columns = weight.shape
    groups = scheme.groups(columns)
    codes = np.empty((out, columns), np.int8)
    scales = np.empty((out, groups), np.float32)
    values = torch.from_numpy(weight)
    counts = None if importance is None else torch.from_numpy(importance).view(1, groups, -1)

    def piece(rows: slice) -> None:
        part = values[rows].view(-1, groups, columns // groups)
        chosen = best_scales(part, scheme, search, counts)
        codes[rows] = rounded(part, chosen, scheme).view(-1, columns).to(torch.int8).numpy()
        scales[rows] = chosen.numpy()

    with one_thread_a_piece():
        run_all(piece, pieces(out, max(1, PIECE // columns)))
    return QuantizedTensor(scheme, codes, scales)


def best_scales(
    weight: Tensor, scheme: Scheme, search: bool, importance: Tensor | None = None
) -> Tensor:
    """Strictly positive, exactly representable scales float32 [rows, groups].

    The weight is float32 [rows, groups, size], importance [1, groups, size]. A group of zeros gets
    the smallest scale: XNNPACK refuses 0.
    """
    largest = weight.abs().amax(2)
    best = _representable(largest / scheme.high)
    if not search:
        return best
    least = squared_error(weight, best, scheme, importance)
    for share in SHRINK[1:]:
        scale = _representable(largest * float(share / scheme.high))
        error = squared_error(weight, scale, scheme, importance)
        better = error < least
        best = torch.where(better, scale, best)
        least = torch.where(better, error, least)
    return best


def rounded(weight: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    """Nearest codes, as float32 [rows, groups, size]; halves go to even."""
    return (weight / scales[:, :, None]).round_().clamp_(scheme.low, scheme.high)


def squared_error(
    weight: Tensor, scales: Tensor, scheme: Scheme, importance: Tensor | None = None
) -> Tensor:
    """sum importance * (w - code * scale)^2 per group, float32 [rows, groups]."""
    error = rounded(weight, scales, scheme).mul_(scales[:, :, None]).sub_(weight).square_()
    if importance is not None:
        error.mul_(importance)
    return error.sum(2)


def _representable(scales: Tensor) -> Tensor:
    return torch.from_numpy(representable_scale(scales.numpy()))
