"""The kinds of fault, by the place that they are in."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.faults.planting import FAULTS, Fault


def every_fault() -> list[Fault]:
    """All faults, a module of this folder after the other."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem != "__init__":
            importlib.import_module(f"{__name__}.{file.stem}")
    return list(FAULTS)
