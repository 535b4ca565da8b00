"""Targets: a TOML file a device class that says which backend writes for it, and what fits."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile import shelf
from edgecompile.config import Table, apply_setting, make, nearest, read_toml
from edgecompile.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """What the device allows; 0 means no limit."""

    size_mb: float = 0.0  # bundle on disk, 10^6 bytes
    memory_mib: float = 0.0  # peak resident memory of the runtime
    first_token_ms: float = 0.0
    latency_ms: float = 0.0  # one text of 64 tokens (embedding, classification)


@dataclass(frozen=True)
class Target:
    """targets/<name>.toml: declarations only."""

    name: str
    description: str
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)  # the backend's fields
    quantize: Mapping[str, Any] = field(default_factory=dict)  # defaults below the recipe's own
    budget: Budget = field(default_factory=Budget)


def names() -> dict[str, Path]:
    """Targets by name: ./targets before the shipped shelf."""
    found: dict[str, Path] = {}
    for folder in (shelf.targets_folder(), Path("targets")):
        found.update({file.stem: file for file in folder.glob("*.toml")})
    return dict(sorted(found.items()))


def find(name: str, settings: Iterable[str] = ()) -> Target:
    """Read a target by name or by the path of its TOML file, and apply `--set` changes to it."""
    known = names()
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None or not path.is_file():
        raise UsageError("--target", f"{name!r} is not a target", nearest(name, known))
    table = read_toml(path)
    for setting in settings:
        apply_setting(table, setting)
    return parse(path.stem, table, str(path))


def parse(name: str, table: Table, where: str) -> Target:
    """A target from its table; all unknown keys are reported at once."""
    values = dict(table) | {"name": name}
    values["budget"] = make(Budget, table.get("budget", {}), f"{where} [budget]")
    return make(Target, values, where)
