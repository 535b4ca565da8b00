"""The shelf: targets/ and models/ as shipped, found from a checkout and from an installed wheel."""
from __future__ import annotations

from pathlib import Path


def targets_folder() -> Path:
    """Folder of the shipped targets: one `<name>.toml` each."""
    return _folder("targets")


def models_folder() -> Path:
    """Folder of the shipped models: one folder with a `recipe.toml` each."""
    return _folder("models")


def _folder(name: str) -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "_shelf" / name  # a wheel: see tool.hatch.build in pyproject.toml
    return installed if installed.is_dir() else package.parent / name
