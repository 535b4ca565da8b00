"""Ranges of 8-bit activations: x ~ scale * (code - zero), codes unsigned in [0, 255].

The range holds 0, so that zero has a code of its own (Jacob et al. 2018, section 2.1; the formula
is that of ONNX DynamicQuantizeLinear).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgecompile.numerics.schemes import Float32

LEVELS = 255
PERCENTILE = 99.99  # of the values, between both ends
MSE_SHARES = np.linspace(1.0, 0.2, 33)  # candidates, as shares of the whole range


@dataclass(frozen=True)
class Range:
    """Scale > 0 and zero point of a tensor of activations."""

    scale: float
    zero: int

    @classmethod
    def between(cls, low: float, high: float) -> Range:
        """The range from `low` to `high`, widened to hold 0; [0, 0] gives scale 1."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(high - low) / np.float32(LEVELS)) or 1.0
        return cls(scale, int(np.clip(np.rint(-low / scale), 0, LEVELS)))

    def rounded(self, values: Float32) -> Float32:
        """What an engine computes with in place of float32 values of any shape."""
        codes = np.rint(values / np.float32(self.scale)) + np.float32(self.zero)
        np.clip(codes, 0, LEVELS, out=codes)
        found: Float32 = (codes - np.float32(self.zero)) * np.float32(self.scale)
        return found


def min_max(values: Float32) -> Range:
    """From the least to the greatest value: nothing is cut off."""
    return Range.between(float(values.min(initial=0.0)), float(values.max(initial=0.0)))


def percentile(values: Float32) -> Range:
    """Between the PERCENTILE's two tails; values outside are cut off."""
    tail = (100.0 - PERCENTILE) / 2
    low, high = np.percentile(values, (tail, 100.0 - tail)) if values.size else (0.0, 0.0)
    return Range.between(float(low), float(high))


def least_squares(values: Float32) -> Range:
    """The share of the whole range whose rounding loses least, sum (x - rounded x)^2."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    found = [Range.between(low * share, high * share) for share in MSE_SHARES]
    return min(found, key=lambda one: squared_error(values, one))


def squared_error(values: Float32, chosen: Range) -> float:
    """sum (x - rounded x)^2."""
    lost = chosen.rounded(values) - values
    return float(np.vdot(lost, lost))


ESTIMATORS: Mapping[str, Callable[[Float32], Range]] = {
    "minmax": min_max, "percentile": percentile, "mse": least_squares,
}  # fmt: skip
