"""Targets: a TOML file a device class that says which backend writes for it, and what fits."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile import registry, shelf
from edgecompile.config import Table, apply_setting, make, nearest, read_toml
from edgecompile.errors import UsageError
from edgecompile.tasks import EVERY

# What `for` may name; the files are the same, but only a run on such a machine proves them.
PLATFORMS = (
    "linux-x86_64", "linux-arm64", "macos-arm64", "windows-x86_64", "android-arm64", "ios-arm64",
)  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What the device allows; 0 means no limit."""

    size_mb: float = 0.0  # bundle on disk, 10^6 bytes
    memory_mib: float = 0.0  # of the runtime: weights, KV cache at the context length, buffers
    first_token_ms: float = 0.0
    latency_ms: float = 0.0  # one text of 64 tokens (embedding, classification)


@dataclass(frozen=True)
class Device:
    """What the device class is, as its makers say."""

    cores: int = 0  # that inference may use at once; 0: not known
    level: str = ""  # of the processor's instructions: x86-64-v3, arm64-a53, arm64-a76
    proven_by: tuple[str, ...] = ()  # levels of `check --on` that stand for it


@dataclass(frozen=True)
class Target:
    """targets/<name>.toml: declarations only.

    `backend` writes the bundle unless `prefer` names another for the task; `candidates` are those
    that `build --relock` measures. `options` are the backend's fields: those in a table of a
    backend's name are that backend's alone, the rest go to whichever is chosen. A target that is
    `refused` says why and has no backend.
    """

    name: str
    description: str
    backend: str = ""
    refused: str = ""  # why nothing is built for it
    candidates: tuple[str, ...] = ()
    prefer: Mapping[str, str] = field(default_factory=dict)  # task -> backend
    platform: str = ""  # `for` in the file: linux-arm64, android-arm64; empty: any
    context_length: int = 0  # tokens at most; 0: the model's own
    options: Mapping[str, Any] = field(default_factory=dict)
    quantize: Mapping[str, Any] = field(default_factory=dict)  # defaults below the recipe's own
    budget: Budget = field(default_factory=Budget)
    device: Device = field(default_factory=Device)

    def on(self, backend: str) -> Target:
        """This target written by that backend, with its options alone."""
        own = self.options.get(backend, {})
        shared = {k: v for k, v in self.options.items() if k not in registry.names("backends")}
        return dataclasses.replace(
            self, backend=backend, options={**shared, **own}, prefer={}, candidates=()
        )

    def preferred(self, task: str) -> Target:
        """This target written by the backend that it declares for the task."""
        return self.on(self.prefer.get(task, self.backend))

    def backends(self) -> tuple[str, ...]:
        """What `--relock` chooses from, the declared backend first."""
        return tuple(dict.fromkeys((self.backend, *self.candidates)))


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
    changes: dict[str, Any] = {}
    for setting in settings:
        apply_setting(changes, setting)
    return parse(path.stem, merged(_inherited(path, ()), changes), str(path))


def _inherited(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    """The file's table over those of the targets that it inherits from."""
    table = read_toml(path)
    base = table.pop("inherits", None)
    if base is None:
        return table
    parent = names().get(base) if isinstance(base, str) else None
    if parent is None:
        raise UsageError(f"{path}: inherits", f"{base!r} is not a target", nearest(base, names()))
    if parent in (path, *heirs):
        raise UsageError(f"{path}: inherits", f"{base!r} inherits from this one", "another target")
    return merged(_inherited(parent, (path, *heirs)), table)


def merged(base: Table, changes: Table) -> dict[str, Any]:
    """`changes` over `base`, table by table; who names a backend drops what was preferred."""
    found = dict(base)
    if "backend" in changes:
        found.pop("prefer", None)
    for key, value in changes.items():
        before = found.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        found[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return found


def parse(name: str, table: Table, where: str) -> Target:
    """A target from its table; all unknown keys are reported at once."""
    values = {"platform" if key == "for" else key: value for key, value in table.items()}
    values["name"] = name
    values["budget"] = make(Budget, table.get("budget", {}), f"{where} [budget]")
    values["device"] = make(Device, table.get("device", {}), f"{where} [device]")
    found = make(Target, values, where)
    if found.platform and found.platform not in PLATFORMS:
        hint = nearest(found.platform, PLATFORMS)
        raise UsageError(f"{where}: for", f"{found.platform!r} is not a platform", hint)
    if bool(found.backend) == bool(found.refused):
        both = "backend and refused" if found.backend else "no backend"
        raise UsageError(where, both, "a backend, or why it is refused")
    backends = ("", *registry.names("backends")) if found.refused else registry.names("backends")
    for named in (found.backend, *found.candidates, *found.prefer.values()):
        if named not in backends:
            raise UsageError(where, f"{named!r} is not a backend", nearest(named, backends))
    for task in found.prefer:
        if task not in EVERY:
            raise UsageError(f"{where} [prefer]", f"{task!r} is not a task", nearest(task, EVERY))
    return found
