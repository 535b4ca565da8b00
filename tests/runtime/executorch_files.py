"""An exported .pte opened by the runtime's engine, without a bundle around it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgecompile.backends import Export
from edgecompile.model import Model
from edgecompile.runtime.executorch_engine import ExecutorchEngine
from edgecompile.runtime.manifest import Engine, GenerationInfo, Manifest


def opened(folder: Path, model: Model, written: Export, threads: int = 2) -> ExecutorchEngine:
    """The engine on `folder`'s file, as a manifest of that export asks for it."""
    ports: dict[str, Any] = {
        "inputs": [asdict(port) for port in written.inputs],
        "outputs": [asdict(port) for port in written.outputs],
    }
    engine = Engine("executorch", written.requires, written.tested, written.file, written.options)
    context = int(written.options.get("context_length", 0))
    generation = GenerationInfo(context, (), {}) if context else None
    manifest = Manifest(
        ports, "", model.name, model.task, (), engine, None, None, generation, ()
    )  # fmt: skip
    return ExecutorchEngine(folder, manifest, threads)
