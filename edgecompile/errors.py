"""The compiler's names for the errors of `edgecompile.runtime.errors` (the runtime ships alone)."""
from __future__ import annotations

from edgecompile.runtime.errors import (
    BadInputError,
    EdgecompileError,
    LimitError,
    MissingLibraryError,
    ResourceError,
    UnsupportedError,
    UsageError,
)

INTERRUPTED = 130

__all__ = [
    "INTERRUPTED",
    "BadInputError",
    "EdgecompileError",
    "LimitError",
    "MissingLibraryError",
    "ResourceError",
    "UnsupportedError",
    "UsageError",
]
