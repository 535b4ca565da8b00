"""Modules that a user or a recipe names: by their import name, or by their file."""
from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def imported(place: str) -> ModuleType:
    """A module by its name, or by its file, run anew each time."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    file = Path(place).resolve()
    # A name of its own: `json.py` beside a recipe takes no other module's place.
    name = f"_edgecompile_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and typing look up what a class's text means
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
