"""A pass that ruins layers on purpose, found as any other pass is: by its file's name."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecompile import passes


@pytest.fixture(scope="package", autouse=True)
def planted_pass() -> Iterator[None]:
    """[quantize] method = "planted" takes 2 bits in overrides."""
    folder = str(Path(__file__).parent / "plugins")
    passes.__path__.append(folder)
    yield
    passes.__path__.remove(folder)
