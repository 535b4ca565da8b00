"""What apps embed: `load` a bundle, then embed, generate, classify, transcribe or run."""
from __future__ import annotations

from .errors import (
    BadInputError,
    EdgecompileError,
    LimitError,
    MissingLibraryError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from .session import Session, load
from .transcript import Segment, Transcript

__all__ = [
    "BadInputError",
    "EdgecompileError",
    "LimitError",
    "MissingLibraryError",
    "ResourceError",
    "Segment",
    "Session",
    "Transcript",
    "UnsupportedError",
    "UsageError",
    "load",
]
