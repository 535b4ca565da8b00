"""Codes of convolutions whose rounding errors cancel: no data is read.

A kernel's inputs are neighbours and alike, after a ReLU all positive, so what reaches the output is
the sum of its errors more than their squares. SQuant (Guo et al. 2022, arXiv:2202.07471), without
its element-wise part: the fewest codes move by one so that each kernel's errors, then each output
channel's, sum to half a step at most.
"""
from __future__ import annotations

import dataclasses

import numpy as np

from edgecompile.numerics.schemes import Float32, QuantizedTensor


def balanced(weight: Float32, tensor: QuantizedTensor, kernel: int) -> QuantizedTensor:
    """Codes on the same scales, one a row, for a weight [out, in x kernel]."""
    exact = weight / tensor.scales
    codes = tensor.codes.astype(np.float32)
    for size in dict.fromkeys((kernel, weight.shape[1])):
        if size > 1:
            codes = _moved(exact.reshape(-1, size), codes.reshape(-1, size), tensor)
    return dataclasses.replace(tensor, codes=codes.reshape(weight.shape).astype(np.int8))


def _moved(exact: Float32, codes: Float32, tensor: QuantizedTensor) -> Float32:
    """Those codes of each row move whose errors are the largest in the direction of the sum."""
    low, high = tensor.scheme.low, tensor.scheme.high
    errors = exact - codes
    count = np.rint(errors.sum(1, keepdims=True))
    moved = codes + np.sign(count)
    free = (moved >= low) & (moved <= high)
    order = np.argsort(np.where(free, -errors * np.sign(count), np.inf), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(errors.shape[1])[None], 1)
    chosen: Float32 = np.where(free & (rank < np.abs(count)), moved, codes)
    return chosen
