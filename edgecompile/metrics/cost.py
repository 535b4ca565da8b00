"""What a bundle costs: size, time to load, latency, speed and memory."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgecompile.metrics import Better, Measurement, each_alone
from edgecompile.statistics.evidence import Mean

MANY = 100  # times, of which the slowest hundredth is one and more


def size(total_bytes: int) -> Measurement:
    """`size` of all files in MB (10^6 bytes)."""
    return Measurement("size", total_bytes / 1e6, "MB", "lower", 1)


def gain(model_bytes: int, parameters: int) -> Measurement:
    """`size_vs_float16` = bytes of the model's files / (2 bytes x parameters)."""
    value = model_bytes / (2 * parameters) if parameters else float("nan")
    return Measurement("size_vs_float16", value, "", "lower", 1)


def load_time(seconds: float) -> Measurement:
    """`load_time` in s, hashes checked."""
    return Measurement("load_time", seconds, "s", "lower", 1)


def latency(milliseconds: Sequence[float]) -> Measurement:
    """`latency` in ms: the median of repeated calls with one text."""
    return _median("latency", milliseconds, "ms", "lower")


def generation(first_token_ms: Sequence[float], speed: Sequence[float]) -> tuple[Measurement, ...]:
    """`first_token` in ms and `decode_speed` in tokens/s: medians of repeated runs."""
    return (
        _median("first_token", first_token_ms, "ms", "lower"),
        _median("decode_speed", speed, "tokens/s", "higher"),
    )


def real_time_factor(factors: Sequence[float]) -> Measurement:
    """`real_time_factor`: seconds of computing a second of sound; the median of repeated runs."""
    return _median("real_time_factor", factors, "", "lower")


def peak_memory(mib: float) -> Measurement:
    """`peak_memory` in MiB: the bundle's process at its largest."""
    return Measurement("peak_memory", mib, "MiB", "lower", 1)


def within(times: Sequence[float], share: float) -> float:
    """The shortest time that at least `share` of them do not exceed; one of them."""
    return sorted(times)[max(math.ceil(share * len(times)) - 1, 0)]


def spread(times: Sequence[float]) -> str:
    """How slow the slow ones are, for a person; a 99th percentile of a hundred and more."""
    if len(times) < 2:
        return ""
    slow = f"99 % within {within(times, 0.99):.3g} ms" if len(times) >= MANY else \
        f"slowest {max(times):.3g} ms"  # fmt: skip
    return f"90 % within {within(times, 0.9):.3g} ms, {slow}"


def _median(metric: str, runs: Sequence[float], unit: str, better: Better) -> Measurement:
    """The median of repeated runs, which are kept."""
    values = np.asarray(runs, np.float64)
    evidence = Mean(values, each_alone(values))
    return Measurement(metric, float(np.median(values)), unit, better, len(values), evidence)
