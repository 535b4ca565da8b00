"""What apps embed: `load` a bundle, then embed, generate, classify or run."""
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

__all__ = [
    "BadInputError",
    "EdgecompileError",
    "LimitError",
    "MissingLibraryError",
    "ResourceError",
    "Session",
    "UnsupportedError",
    "UsageError",
    "load",
]
