"""What native code may use of a processor, by platform."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """What native code may use of a processor: the compiler's name and the width of vectors."""

    name: str
    march: str
    bits: int


LEVELS = {
    "linux-x86_64": Level("x86-64-v3", "x86-64-v3", 256),
    "linux-arm64": Level("arm64", "armv8-a", 128),
}  # fmt: skip
