"""`edgecompile doctor`: what is installed, what the processor offers, which targets work here."""
from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile import __version__, imports, shelf, target
from edgecompile.checks.device import VARIABLE
from edgecompile.errors import EdgecompileError
from edgecompile.host import Host, disk_free_mib, host
from edgecompile.runtime.providers import BY_NAME

REQUIREMENT = re.compile(
    r"""(?P<name>[\w.-]+)(\[[^\]]*\])?\s*(?P<range>[^;]*?)\s*(;.*extra\s*==\s*['"](?P<extra>\w+)['"])?$"""
)
# "" is what plain `pip install edgecompile` brings
EXTRAS = ("", "compile", "train", "executorch", "gguf", "openvino", "pictures", "demo")


@dataclass(frozen=True)
class Library:
    """One dependency: which extra wants it, what is here, and with which version it was tested."""

    name: str
    extra: str  # "" for the light half
    wanted: str  # range, as in `>=1.31`
    installed: str  # version, "" when missing
    tested: str  # version in constraints.txt

    @property
    def state(self) -> str:
        """`ok`, `missing`, or `untested` for another version than the tested one."""
        if not self.installed:
            return "missing"
        same = self.installed.split("+")[0] == self.tested
        return "ok" if same or not self.tested else "untested"


@dataclass(frozen=True)
class Ability:
    """Whether a target's bundles can be built and run here; `missing` are modules to import."""

    target: str
    description: str
    backend: str
    engine: str
    missing_to_build: tuple[str, ...]
    missing_to_run: tuple[str, ...]
    problem: str = ""  # the target file itself is wrong, or says why nothing is built for it
    way_out: str = ""  # a `pip install` line


@dataclass(frozen=True)
class Report:
    """What `examine` found."""

    version: str
    python: str
    host: Host
    disk_free_mib: int  # where the cache and the output of this folder would go
    libraries: tuple[Library, ...]
    targets: tuple[Ability, ...]


def examine() -> Report:
    """Look at this machine; imports no framework and no engine."""
    python = ".".join(map(str, sys.version_info[:3]))
    targets = tuple(ability(name) for name in sorted(target.names()))
    return Report(__version__, python, host(), disk_free_mib(Path()), tuple(libraries()), targets)


def libraries() -> Iterator[Library]:
    """The dependencies that the installed edgecompile declares, extra by extra."""
    tested = shelf.tested_versions()
    for extra, name, wanted in sorted(_requirements(), key=lambda r: (EXTRAS.index(r[0]), r[1])):
        key = re.sub(r"[-_.]+", "-", name).lower()
        yield Library(name, extra, wanted, _version(name), tested.get(key, ""))


def ability(name: str) -> Ability:
    """What a target lacks, told from the sources of its backend and from its engine's module."""
    try:
        found = target.find(name)
    except EdgecompileError as error:
        return Ability(name, "", "", "", (), (), problem=str(error))
    if found.refused:
        return Ability(name, found.description, "", "", (), (), problem=found.refused)
    engine = _engine(found.backend)
    build = tuple(sorted(_absent(imports.outside(f"edgecompile.backends.{found.backend}"))))
    run = tuple(_absent([engine] if engine != "null" else []))
    if not run and found.options.get("device") == "gpu" and (wheels := _wheels(found)):
        # None of them: the wheels replace onnxruntime, so they have an interpreter of their own.
        way_out = f"{VARIABLE}=an interpreter with {' or '.join(wheels)}"
        return Ability(name, found.description, found.backend, engine, build, wheels, "", way_out)
    extras = {_extra(module) for module in (*build, *run)}
    way_out = f"pip install 'edgecompile[{','.join(sorted(extras))}]'" if extras else ""
    return Ability(name, found.description, found.backend, engine, build, run, way_out=way_out)


def _wheels(one: target.Target) -> tuple[str, ...]:
    """The wheels that a GPU's target can run with.

    Empty where one is here, or an interpreter is named that has one.
    """
    packages = tuple(BY_NAME[name].package for name in one.options.get("providers", ()))
    if os.environ.get(VARIABLE) or any(_version(package) for package in packages):
        return ()
    return packages


def to_json(report: Report) -> dict[str, Any]:
    """The report in JSON's types, with each library's state spelled out."""
    libraries = [asdict(library) | {"state": library.state} for library in report.libraries]
    return asdict(report) | {"libraries": libraries}


def render(report: Report, console: Console) -> None:
    """Print the report as tables."""
    here = report.host
    console.print(f"edgecompile {report.version}, Python {report.python}, {here.system}")
    console.print(f"{here.cpu}: {here.level}, {here.cores} cores usable")
    console.print(f"memory {here.memory_mib} MiB, {here.available_mib} MiB of it available")
    console.print(f"disk {report.disk_free_mib} MiB free in this folder")
    console.print(_library_table(report.libraries))
    console.print(_target_table(report.targets))


def _library_table(rows: Iterable[Library]) -> Table:
    table = Table("library", "for", "wanted", "installed", "tested", "state")
    colours = {"ok": "green", "missing": "yellow", "untested": "cyan"}
    for row in rows:
        state = f"[{colours[row.state]}]{row.state}[/]"
        extra = row.extra or "runtime"
        table.add_row(row.name, extra, row.wanted, row.installed or "-", row.tested, state)
    return table


def _target_table(rows: Iterable[Ability]) -> Table:
    table = Table("target", "builds", "runs", "engine", "what to do")
    for row in rows:
        builds = "no" if row.missing_to_build or row.problem else "yes"
        runs = "no" if row.missing_to_run or row.problem or row.engine == "null" else "yes"
        table.add_row(row.target, builds, runs, row.engine, row.problem or row.way_out or "-")
    return table


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(extra, distribution, range) as the installed package declares them."""
    try:
        declared = importlib.metadata.requires("edgecompile") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout on the path
        return
    for line in declared:
        match = REQUIREMENT.match(line)
        if match and (match["extra"] or "") in EXTRAS:
            yield match["extra"] or "", match["name"], match["range"]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _engine(backend: str) -> str:
    """The engine a backend writes for, as in its `Export(engine=...)`: the module that runs it."""
    for node in ast.walk(imports.tree(f"edgecompile.backends.{backend}")):
        match node:
            case ast.keyword(arg="engine", value=ast.Constant(value=str(name))):
                return name
    return backend


def _absent(modules: Iterable[str]) -> Iterator[str]:
    return (module for module in modules if importlib.util.find_spec(module) is None)


def _extra(module: str) -> str:
    """The extra that brings an importable module, by the name of its distribution."""
    wanted = module.replace("_", "-")
    rows = sorted(_requirements(), key=lambda row: EXTRAS.index(row[0]))
    return next((extra for extra, name, _ in rows if extra and name.startswith(wanted)), "compile")
