"""What the numbers were measured on."""
from __future__ import annotations

import platform
import subprocess
from importlib import metadata

from edgecompile import host

LIBRARIES = ("numpy", "torch", "transformers", "onnxruntime", "openvino", "executorch")


def describe(threads: int) -> str:
    """Processor, threads and versions on one line."""
    spoken = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True)
    versions = [f"{name} {_version(name)}" for name in LIBRARIES]
    speech = " ".join(spoken.stdout.split()[3:4])
    return (f"{host.host().cpu}, {threads} threads, Python {platform.python_version()}, "
            f"espeak-ng {speech}, {', '.join(versions)}")  # fmt: skip


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
