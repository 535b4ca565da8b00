"""The runtime for other languages: sources that travel with the package."""
from __future__ import annotations

from pathlib import Path


def folder(language: str) -> Path:
    """Where the sources of a language are, for example `cpp`."""
    return Path(__file__).parent / language
