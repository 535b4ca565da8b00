"""Processors to emulate: each chooses other kernels in the engines."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One processor as qemu names it."""

    name: str
    cpu: str  # qemu's -cpu
    like: str  # devices that compute this way

    @property
    def model(self) -> str:
        """The processor's name without qemu's switches."""
        return self.cpu.partition(",")[0]


# `max` without SME: with it two engines gave wrong int8 under qemu 7.2.
LEVELS = {
    level.name: level
    for level in (
        Level("arm64-a53", "cortex-a53", "ARMv8.0, no dot product: Raspberry Pi 3, cheap phones"),
        Level("arm64-a76", "cortex-a76", "ARMv8.2, dot product and float16: Raspberry Pi 5"),
        Level("arm64-max", "max,sme=off", "ARMv9: int8 matrix products, bfloat16, SVE2"),
    )
}
