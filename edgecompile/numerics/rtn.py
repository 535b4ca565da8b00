"""Round to nearest on the grid, each group's scale searched for the least weighted square error."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgecompile.host import usable_cores
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme, representable_scale

SHRINK = np.linspace(1.0, 0.7, 13, dtype=np.float32)  # candidates, as shares of the absmax scale
BLOCK = 1 << 16  # elements quantized at a time by one thread: stays in the second-level cache


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
    rows = max(1, BLOCK // columns)

    def block(start: int) -> None:
        part = weight[start : start + rows].reshape(-1, columns // groups)
        chosen = best_scales(part, scheme, search, _per_group(importance, part, groups))
        codes[start : start + rows] = encode(part, chosen, scheme).reshape(-1, columns)
        scales[start : start + rows] = chosen.reshape(-1, groups)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(block, range(0, out, rows)))
    return QuantizedTensor(scheme, codes, scales)


def _per_group(importance: Float32 | None, part: Float32, groups: int) -> Float32 | None:
    """The columns' importance for each of the groups [n, size] of some rows."""
    if importance is None:
        return None
    return np.tile(importance.reshape(groups, -1), (len(part) // groups, 1))


def best_scales(
    groups: Float32, scheme: Scheme, search: bool, importance: Float32 | None = None
) -> Float32:
    """Strictly positive, exactly representable scales float32 [n] for groups float32 [n, size].

    A group of zeros gets the smallest scale: XNNPACK refuses 0.
    """
    largest = np.abs(groups).max(axis=1)
    best = representable_scale(largest / scheme.high)
    if not search:
        return best
    least = squared_error(groups, best, scheme, importance)
    for share in SHRINK[1:]:
        scale = representable_scale(largest * (share / scheme.high))
        error = squared_error(groups, scale, scheme, importance)
        better = error < least
        best = np.where(better, scale, best)
        least = np.where(better, error, least)
    return best


def encode(groups: Float32, scales: Float32, scheme: Scheme) -> Int8:
    """Nearest codes int8 [n, size] for groups [n, size] and scales [n]; halves go to even."""
    return _rounded(groups, scales, scheme).astype(np.int8)


def squared_error(
    groups: Float32, scales: Float32, scheme: Scheme, importance: Float32 | None = None
) -> Float32:
    """sum importance * (w - code * scale)^2 per group, float32 [n]; importance as the groups."""
    error = _rounded(groups, scales, scheme)
    error *= scales[:, None]
    error -= groups
    found: Float32
    if importance is None:
        found = np.einsum("ij,ij->i", error, error)
    else:
        found = np.einsum("ij,ij,ij->i", error, error, importance)
    return found


def _rounded(groups: Float32, scales: Float32, scheme: Scheme) -> Float32:
    codes: Float32 = groups / scales[:, None]
    np.rint(codes, out=codes)
    np.maximum(codes, np.float32(scheme.low), out=codes)
    np.minimum(codes, np.float32(scheme.high), out=codes)
    return codes
