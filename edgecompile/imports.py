"""What our modules import, told from their sources: importing them would load frameworks."""
from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("edgecompile", "edgecompile_runtime")  # the second is the runtime's name inside a bundle


def outside(module: str) -> set[str]:
    """Top-level modules outside the standard library that a module imports, itself or through ours.

    Imports inside functions are included.
    """
    seen: set[str] = set()
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        for imported in () if name in seen else _imported(name):
            top = imported.partition(".")[0]
            if top in OURS:
                todo.append(imported)
            elif top not in sys.stdlib_module_names:
                found.add(top)
        seen.add(name)
    return found


def _imported(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                base = _base(module, level)
                source = ".".join(filter(None, (base, source)))
                yield source
                yield from (f"{source}.{alias.name}" for alias in names)


def _base(module: str, level: int) -> str:
    """What the `level` dots of a relative import stand for in that module; empty without dots."""
    if not level:
        return ""
    parts = module.split(".")
    up = level - 1 if ROOT.joinpath(*parts).is_dir() else level
    return ".".join(parts[: len(parts) - up])


@cache
def tree(module: str) -> ast.Module:
    """A module's syntax tree; empty for a name that is no file of this package."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])
