"""Tiny bundles of every kind, made once a run; tests that damage one make their own copy."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.runtime.makers import make_bundle

# A busy machine is slow, not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

Bundles = Callable[[str], Path]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """The folder of the bundle of a kind."""
    folder = tmp_path_factory.mktemp("bundles")

    def find(kind: str) -> Path:
        path = folder / kind
        return path if path.exists() else make_bundle(path, kind)

    return find


@pytest.fixture
def damaged(bundles: Bundles, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a bundle that a test may change."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(bundles(kind), tmp_path / "copy"))

    return copy
