"""The scripts of models/, which are no importable package."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

MODELS = Path(__file__).resolve().parents[2] / "models"


def opened(path: str) -> ModuleType:
    """The module in a file of models/."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, MODELS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module
