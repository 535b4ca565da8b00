"""The shelf: targets/, models/, tested versions and the schema, from a checkout or a wheel."""
from __future__ import annotations

from pathlib import Path


def targets_folder() -> Path:
    """Folder of the shipped targets: one `<name>.toml` each."""
    return _place("targets")


def models_folder() -> Path:
    """Folder of the shipped models: one folder with a `recipe.toml` each."""
    return _place("models")


def tested_versions() -> dict[str, str]:
    """Exact version by distribution name (lower case, hyphens), from constraints.txt."""
    lines = _place("constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if not line.startswith("#"))
    return {name: version for name, equals, version in pins if equals}


def report_schema() -> Path:
    """The JSON Schema of report.json."""
    return _place("report.schema.json", "docs/report.schema.json")


def _place(name: str, checkout: str = "") -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "_shelf" / name  # a wheel: see tool.hatch.build in pyproject.toml
    return installed if installed.exists() else package.parent / (checkout or name)
