"""Environments of peers' own, made by pip from the registry at first use."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def python_of(venvs: Path, name: str, needs: Sequence[str]) -> Path:
    """The python of environment `name`, with `needs` installed one pip command after the other.

    torch comes first and alone: a plain requirement may bring another build of it.
    """
    folder = venvs / name
    python = folder / "bin" / "python"
    if not (folder / "ready.json").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for part in needs:
            pip = [str(python), "-m", "pip", "install", "-q", *part.split()]
            subprocess.run(pip, check=True, stdout=sys.stderr)
        freeze = [str(python), "-m", "pip", "list", "--format", "json"]
        listed = json.loads(subprocess.run(freeze, check=True, capture_output=True).stdout)
        found = {package["name"]: package["version"] for package in listed}
        (folder / "ready.json").write_text(json.dumps(found), "utf-8")
    return python


def versions(venvs: Path, name: str) -> Mapping[str, str]:
    """What is installed in an environment; empty before it is made."""
    marker = venvs / name / "ready.json"
    found: dict[str, str] = json.loads(marker.read_text("utf-8")) if marker.exists() else {}
    return found
