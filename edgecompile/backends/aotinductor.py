"""AOTInductor: torch.export, then native code in a .pt2 beside the codes it computes with."""
from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgecompile.backends import Decoded, Export, Extent, schemes_of
from edgecompile.backends.aotinductor_graph.levels import LEVELS
from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.host import platform_name
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Progress
from edgecompile.runtime.cpu import missing_for
from edgecompile.sources.heads import activation_option
from edgecompile.structure import roles
from edgecompile.tasks import EVERY, generates, has_several_graphs

WHERE = "aotinductor backend"
TASKS_HERE = tuple(task for task in EVERY if not (generates(task) or has_several_graphs(task)))
CODE_BYTES, CODE_BYTES_PER_TENSOR = 400_000, 3_000  # native code, names


@dataclass(frozen=True)
class Aotinductor:
    """Floats computed from codes that are dequantized once, as the bundle is opened.

    `device`: what the native code is compiled for, on a machine that has it.
    """

    name: ClassVar[str] = "aotinductor"
    tasks: ClassVar[tuple[str, ...]] = TASKS_HERE
    device: Literal["cuda", "cpu"] = "cuda"

    def refusal(self, model: Model) -> str:
        """Tasks that are not drawn, and what this machine lacks to compile."""
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        return _lacking(self.device)

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Codes, float16 scales, floats and native code."""
        total, used = CODE_BYTES, roles(model)
        for name, info in model.weights.infos.items():
            if used[name] == "unused":
                continue
            elements = math.prod(info.shape)
            total += CODE_BYTES_PER_TENSOR
            if name not in schemes:
                total += elements * 4
                continue
            scales = info.shape[0] * schemes[name].groups(info.matrix[1])
            total += elements * schemes[name].bits // 8 + scales * 2
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write model.pt2 and weights.safetensors."""
        if reason := self.refusal(model):
            raise UnsupportedError(WHERE, reason, way_out="--target cpu or --target gpu")
        _refuse_schemes(model, schemes_of(model))
        with quiet():
            from edgecompile.backends.aotinductor_graph import written

        done = written.write(model, folder, self.device, progress)
        version = metadata.version("torch").partition("+")[0]
        options: dict[str, Any] = {
            "device": self.device, "platform": platform_name(), **done.options,
            "compiler": compiler_version(),
        }  # fmt: skip
        options |= activation_option(model.task, model.config)
        return Export(
            engine="aotinductor", requires=f"torch=={'.'.join(version.split('.')[:2])}.*",
            tested=version, file=done.file, inputs=done.inputs, outputs=done.outputs,
            options=options, unused=done.unused,
        )  # fmt: skip

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes and floats from the sealed file of tensors; native code tells no facts."""
        from edgecompile.backends.aotinductor_graph.decode import decode

        return decode(folder, manifest)

    def extents(self, folder: Path) -> Iterator[Extent]:
        """Every tensor in the file beside the native code, which holds none."""
        from edgecompile.backends.aotinductor_graph.decode import extents

        return extents(folder)


def _lacking(device: str) -> str:
    """What this machine does not have that compiling for `device` needs; empty if nothing."""
    if (here := platform_name()) not in LEVELS:
        return f"this machine is {here}; AOTInductor is used on {' and '.join(LEVELS)}"
    if lacking := missing_for(LEVELS[here].name):
        found = f"this processor has no {', '.join(lacking)}"
        return f"{found}, and its code is compiled for {LEVELS[here].name}"
    if not shutil.which("g++"):
        return "no C++ compiler is here (g++), and AOTInductor writes C++: apt-get install g++"
    if device == "cuda" and not _has_cuda():
        return (
            "no CUDA device is here (torch.cuda), and AOTInductor compiles its kernels for the GPU "
            "of the machine that builds; build it on such a machine, with torch's CUDA wheel"
        )
    return ""


def _has_cuda() -> bool:
    """torch is asked only where there is a driver: importing it takes seconds."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def compiler_version() -> str:
    """`g++ 12.2.0`: another one may write other bytes."""
    done = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True)
    return f"g++ {done.stdout.strip()}"


def _refuse_schemes(model: Model, schemes: Mapping[str, Scheme]) -> None:
    """int8, and int4 in pairs."""
    for name, scheme in schemes.items():
        columns = model.weights.infos[name].matrix[1]
        if scheme.bits not in (4, 8) or (scheme.bits == 4 and columns % 2):
            found = f"{name}: {scheme.bits} bits and {columns} columns"
            raise UnsupportedError(
                WHERE, found, "8 bits, or 4 and an even number", "choose bits = 8"
            )
