"""SmoothQuant: scales that move a layer's outlier channels from its inputs into its weights.

A layer y = x W^T stays the same as y = (x / s) (W s)^T; s_j = max|x_j|^alpha / max|w_j|^(1-alpha)
(Xiao et al. 2023, eq. 4). Alpha is the one whose layer, with 8-bit codes of both, loses least.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgecompile.numerics.ranges import Range
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, Scheme

W8 = Scheme(8, 0)
ALPHAS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)
LEAST = 1e-5  # of a channel's greatest magnitude, that no scale be 0 or infinite

Estimator = Callable[[Float32], Range]


@dataclass(frozen=True)
class Inputs:
    """What entered a layer: rows float32 [n, in]; least and greatest of all tokens, each [in]."""

    rows: Float32
    least: Float32
    greatest: Float32

    def values(self, scale: Float32) -> Float32:
        """Rows and extremes divided by a scale [in], for an estimator of ranges."""
        whole: Float32 = np.concatenate([self.rows, self.least[None], self.greatest[None]])
        return np.divide(whole, scale, dtype=np.float32)


@dataclass(frozen=True)
class Smoothed:
    """The chosen scale float32 [in] and the range of x / s; alpha is 0 where no scale is better.

    Errors are relative, of the layer's output, with the scale and without.
    """

    scale: Float32
    alpha: float
    range: Range
    error: float
    plain_error: float


def scales(inputs: Inputs, weight: Float32, alpha: float) -> Float32:
    """Eq. 4 for a weight [out, in], float32 [in]; their geometric mean is 1."""
    largest = np.maximum(np.abs(inputs.least), np.abs(inputs.greatest)).clip(LEAST)
    weights = np.abs(weight).max(axis=0).clip(LEAST)
    log = alpha * np.log(largest) - (1 - alpha) * np.log(weights)
    found: Float32 = np.exp(log - log.mean()).astype(np.float32)
    return found


def search(inputs: Inputs, weight: Float32, estimator: Estimator) -> Smoothed:
    """The best of ALPHAS and of no scale, for a weight [out, in] of all layers that share x."""
    expected = inputs.rows @ weight.T
    norm = max(float(np.linalg.norm(expected)), 1e-30)
    candidates = [(0.0, np.ones(weight.shape[1], np.float32))]
    candidates += [(alpha, scales(inputs, weight, alpha)) for alpha in ALPHAS]
    found = []
    for alpha, scale in candidates:
        chosen = estimator(inputs.values(scale))
        coded = quantize(weight * scale, W8, search=False).dequantize()
        lost = chosen.rounded(inputs.rows / scale) @ coded.T - expected
        found.append((float(np.linalg.norm(lost)) / norm, alpha, scale, chosen))
    error, alpha, scale, chosen = min(found, key=lambda one: one[0])
    return Smoothed(scale, alpha, chosen, error, found[0][0])
