"""Plug-ins by file name: passes/quantize_rtn.py holds `quantize_rtn`, class QuantizeRtn."""
from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from edgecompile.config import Table, make, nearest
from edgecompile.errors import MissingLibraryError, UsageError


def names(kind: str) -> list[str]:
    """Plug-ins of a kind (`passes`, `backends`): modules that define a class of their own name.

    Sources are read, not imported, so a plug-in whose library is missing is still listed.
    """
    package = importlib.import_module(f"edgecompile.{kind}")
    files = (file for folder in package.__path__ for file in Path(folder).glob("*.py"))
    return sorted(file.stem for file in files if _defines(file))


def _defines(file: Path) -> bool:
    source = file.read_text("utf-8")
    return re.search(rf"^class {_class_name(file.stem)}\b", source, re.MULTILINE) is not None


def find(kind: str, name: str, where: str) -> type[Any]:
    """The plug-in's dataclass; unknown is UsageError (2), a library it lacks is exit 4."""
    if name not in names(kind):
        raise UsageError(where, f"{name!r} is not one of {kind}", nearest(name, names(kind)))
    try:
        module = importlib.import_module(f"edgecompile.{kind}.{name}")
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            f"{kind}/{name}", f"the library {error.name!r} is not installed",
            way_out=f"pip install 'edgecompile[{_extra(name)}]'",
        ) from error
    plugin: type[Any] = getattr(module, _class_name(name))
    return plugin


def create(kind: str, name: str, options: Table, where: str) -> Any:
    """The plug-in with its options set from a TOML table."""
    return make(find(kind, name, where), options, f"{where} [{name}]")


def _class_name(module: str) -> str:
    return "".join(part.capitalize() for part in module.split("_"))


def _extra(name: str) -> str:
    return name if name in ("executorch", "gguf", "openvino") else "compile"
