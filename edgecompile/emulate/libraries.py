"""What the runner needs of an engine's packages: `include/` and `lib/` of unpacked downloads."""
from __future__ import annotations

import shutil
from pathlib import Path

from edgecompile.errors import BadInputError

# As `libexecutorch.so`, in the order in which they link.
EXECUTORCH = (
    "executorch_kernels_optimized", "executorch_kernels_quantized", "executorch_backend_xnnpack",
    "executorch_threadpool", "executorch",
)  # fmt: skip
# What reading and running an IR needs of the wheel's libraries.
OPENVINO = (
    "libopenvino.so.*", "libopenvino_ir_frontend.so.*", "libopenvino_arm_cpu_plugin.so",
    "libtbb.so.*", "libhwloc.so.*", "libtbbbind_2_5.so.*",
)  # fmt: skip


def onnxruntime(unpacked: tuple[Path, ...], out: Path) -> None:
    """The library from the wheel, headers from the package of an app framework."""
    wheel, package = unpacked
    headers = _one(package, "**/ios-arm64/onnxruntime.framework/Headers")
    shutil.copytree(headers, out / "include")
    library = _one(wheel, "onnxruntime/capi/libonnxruntime.so.*")
    (out / "lib").mkdir()
    shutil.copy(library, out / "lib" / "libonnxruntime.so.1")


def executorch(unpacked: tuple[Path, ...], out: Path) -> None:
    """The wheel's own headers and libraries."""
    package = unpacked[0] / "executorch"
    shutil.copytree(package / "include", out / "include")
    (out / "lib").mkdir()
    for name in EXECUTORCH:
        shutil.copy(_one(package, f"lib/lib{name}.so"), out / "lib")


def openvino(unpacked: tuple[Path, ...], out: Path) -> None:
    """The wheel's own headers and libraries."""
    package = unpacked[0] / "openvino"
    shutil.copytree(package / "include", out / "include")
    (out / "lib").mkdir()
    for pattern in OPENVINO:
        shutil.copy(_one(package, f"libs/{pattern}"), out / "lib")


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise BadInputError(str(folder), f"{len(found)} files {pattern}", "one")
    return found[0]
