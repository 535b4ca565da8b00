"""Round to nearest on the grid, each group's scale searched for the least square error."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgecompile.host import usable_cores
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme, representable_scale

SHRINK = np.linspace(1.0, 0.7, 13, dtype=np.float32)  # candidates, as shares of the absmax scale
BLOCK = 1 << 18  # elements quantized at a time by one thread: stays in the second-level cache


def quantize(weight: Float32, scheme: Scheme, search: bool = True) -> QuantizedTensor:
    """Codes for a weight [out, in] on `scheme`; raises ValueError where groups do not divide.

    With `search`, each group takes the scale among SHRINK * absmax / high that makes
    sum (w - code * scale)^2 least; without it, absmax / high.
    """
    out, columns = weight.shape
    groups = scheme.groups(columns)
    codes = np.empty((out, columns), np.int8)
    scales = np.empty((out, groups), np.float32)
    rows = max(1, BLOCK // columns)

    def block(start: int) -> None:
        part = weight[start : start + rows].reshape(-1, columns // groups)
        chosen = best_scales(part, scheme, search)
        codes[start : start + rows] = encode(part, chosen, scheme).reshape(-1, columns)
        scales[start : start + rows] = chosen.reshape(-1, groups)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(block, range(0, out, rows)))
    return QuantizedTensor(scheme, codes, scales)


def best_scales(groups: Float32, scheme: Scheme, search: bool) -> Float32:
    """Strictly positive, exactly representable scales float32 [n] for groups float32 [n, size].

    A group of zeros gets the smallest scale: XNNPACK refuses 0.
    """
    largest = np.abs(groups).max(axis=1)
    best = representable_scale(largest / scheme.high)
    if not search:
        return best
    least = squared_error(groups, best, scheme)
    for share in SHRINK[1:]:
        scale = representable_scale(largest * (share / scheme.high))
        error = squared_error(groups, scale, scheme)
        better = error < least
        best = np.where(better, scale, best)
        least = np.where(better, error, least)
    return best


def encode(groups: Float32, scales: Float32, scheme: Scheme) -> Int8:
    """Nearest codes int8 [n, size] for groups [n, size] and scales [n]; halves go to even."""
    codes = np.rint(groups / scales[:, None])
    found: Int8 = np.clip(codes, scheme.low, scheme.high).astype(np.int8)
    return found


def squared_error(groups: Float32, scales: Float32, scheme: Scheme) -> Float32:
    """sum (w - code * scale)^2 per group, float32 [n]."""
    codes = np.clip(np.rint(groups / scales[:, None]), scheme.low, scheme.high)
    error: Float32 = np.square(groups - codes * scales[:, None]).sum(axis=1)
    return error
