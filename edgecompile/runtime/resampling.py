"""Audio from one sampling rate to another: a polyphase filter in numpy.

The filter is a sinc cut off at 0.95 of the lower rate's half, under Kaiser's window of beta 10 over
32 zero crossings a side (J. O. Smith, "Digital Audio Resampling"). Another tool (ffmpeg, librosa)
has another filter, so other samples.
"""
from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ZEROS = 32  # zero crossings of the sinc on each side
CUTOFF = 0.95  # of half the lower rate
BETA = 10.0  # of Kaiser's window
TOGETHER = 64  # filters computed at a time


def resample(samples: NDArray[np.float32], source: int, wanted: int) -> NDArray[np.float32]:
    """float32 [n] at `source` hertz to float32 [ceil(n * wanted / source)] at `wanted` hertz."""
    if source == wanted or not samples.size:
        return samples
    divisor = math.gcd(source, wanted)
    up, down = wanted // divisor, source // divisor
    count = -(-samples.size * up // down)
    reach = math.ceil(ZEROS * max(1.0, down / up) / CUTOFF)  # source samples on each side
    padded = np.pad(samples, (reach, reach + down))
    found = np.empty(count, np.float32)
    # Outputs that are `up` apart fall on the same place between two samples: one filter for all.
    for first in range(0, min(up, count), TOGETHER):
        outputs = np.arange(first, min(first + TOGETHER, up, count))
        places, phases = np.divmod(outputs * down, up)
        filters = _filters(phases / up, reach, min(1.0, up / down))
        for output, place, taps in zip(outputs, places, filters, strict=True):
            views = np.lib.stride_tricks.sliding_window_view(padded[place:], taps.size)[::down]
            chosen = found[output::up]
            # Not `@`: its threads made this 20 times slower on such overlapping views.
            np.einsum("ij,j->i", views[: chosen.size], taps, out=chosen)
    return found


def _filters(phases: NDArray[np.float64], reach: int, ratio: float) -> NDArray[np.float32]:
    """float32 [n, 2 * reach + 1]: a filter for each place, as parts of a sample after a sample."""
    cutoff = CUTOFF * ratio
    distance = np.arange(-reach, reach + 1) - phases[:, None]
    inside = np.clip(1 - np.square(distance * cutoff / ZEROS), 0, None)
    window = np.i0(BETA * np.sqrt(inside)) / np.i0(BETA) * (inside > 0)
    return np.asarray(cutoff * np.sinc(cutoff * distance) * window, np.float32)
