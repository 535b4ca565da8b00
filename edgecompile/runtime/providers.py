"""Which of ONNX Runtime's providers computes: chosen at load from what is there, CPU only by name.

Names: onnxruntime.ai, "Execution Providers". A provider that a wheel was built with may still find
no device here, so each is tried, and what it leaves to the CPU is looked at.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import BadInputError, EdgecompileError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

VARIABLE = "EDGECOMPILE_PROVIDER"  # asks for a provider by name, where the caller does not
CPU = "cpu"


@dataclass(frozen=True)
class Provider:
    """`engine` is ONNX Runtime's name for it, `memory` the device type of values that stay there.

    `package` is the wheel that has it; such wheels replace each other.
    """

    name: str
    engine: str
    title: str
    memory: str
    package: str


PROVIDERS = (
    Provider("cuda", "CUDAExecutionProvider", "CUDA", "cuda", "onnxruntime-gpu"),
    Provider(
        "tensorrt-rtx", "NvTensorRTRTXExecutionProvider", "TensorRT-RTX", "cuda",
        "onnxruntime-trt-rtx",
    ),
    Provider("directml", "DmlExecutionProvider", "DirectML", "dml", "onnxruntime-directml"),
    Provider("webgpu", "WebGpuExecutionProvider", "WebGPU", "webgpu", "onnxruntime-webgpu"),
    Provider(CPU, "CPUExecutionProvider", "ONNX Runtime on the CPU", "cpu", "onnxruntime"),
)  # fmt: skip
# float32 means float32: CUDA's provider would multiply in TF32, of 11 bits.
OPTIONS: Mapping[str, Mapping[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}
BY_NAME: Mapping[str, Provider] = {one.name: one for one in PROVIDERS}
# Software that stands for a GPU: a part of its driver's file name -> its name.
SOFTWARE = {"vk_swiftshader": "SwiftShader", "vulkan_lvp": "llvmpipe"}
DRIVERS = ("libvulkan_", "libvk_", "libGLX_nvidia", "libcuda.so", "libnvidia-")  # in file names
# Operators of shapes, masks and token ids: integers that a provider leaves to the CPU on purpose.
# Whatever else is found there multiplies floats, and the session is refused.
HOST_OPERATORS = frozenset((
    "Shape", "Size", "Squeeze", "Unsqueeze", "Slice", "Cast", "Range", "Gather", "GatherND",
    "GatherElements", "Expand", "Concat", "Reshape", "Split", "Tile", "Where", "Equal", "Less",
    "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "Add", "Sub", "Mul", "Div",
    "Max", "Min", "Mod", "Neg", "ReduceMax", "ReduceSum", "ReduceProd", "CumSum", "NonZero",
    "Constant", "ConstantOfShape", "Identity", "Transpose", "ScatterND", "Pad", "Trilu",
))  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A session and who computes it; `device` for a person, `software` where no GPU stands behind.

    `host_nodes` counts the nodes of integers that run on the CPU; `step` is the most tokens of a
    prompt that one call computes rightly.
    """

    session: InferenceSession
    provider: Provider
    device: str
    software: bool
    host_nodes: int
    step: int = 0


@dataclass(frozen=True)
class Opening:
    """How a bundle is opened with a provider, and tried out (the most tokens that a call takes)."""

    make: Callable[[Sequence[str]], InferenceSession]
    prove: Callable[[InferenceSession, Provider], int]
    options: Mapping[str, Any]  # the manifest's engine.options


def accepted(options: Mapping[str, Any]) -> tuple[Provider, ...]:
    """Those that the manifest's `engine.options.providers` names, in its order."""
    names = options.get("providers")
    if not isinstance(names, list) or not names or not set(names) <= BY_NAME.keys() - {CPU}:
        known = ", ".join(name for name in BY_NAME if name != CPU)
        raise BadInputError("manifest: engine.options.providers", repr(names), f"some of {known}")
    return tuple(BY_NAME[name] for name in names)


def candidates(
    library: ModuleType, wanted: Sequence[Provider], asked: str = ""
) -> tuple[Provider, ...]:
    """Those of `wanted` that the library offers, or the one `asked` for by name."""
    offered: Collection[str] = library.get_available_providers()
    asked = asked or os.environ.get(VARIABLE, "")
    if asked:
        wanted = (_asked(asked, wanted),)
    found = tuple(one for one in wanted if one.engine in offered)
    if not found:
        packages = " or ".join(f"pip install {one.package}" for one in wanted)
        raise UnsupportedError(
            "onnxruntime", f"{library.__version__} here offers {', '.join(offered)}",
            " or ".join(one.engine for one in wanted),
            f"{packages} (in place of onnxruntime), or ask for the CPU by name: provider='cpu', "
            f"{VARIABLE}=cpu",
        )  # fmt: skip
    return found


def _asked(name: str, wanted: Sequence[Provider]) -> Provider:
    if name not in BY_NAME:
        raise UsageError("provider", repr(name), f"one of {', '.join(BY_NAME)}")
    if name != CPU and BY_NAME[name] not in wanted:
        known = ", ".join(one.name for one in wanted)
        raise UnsupportedError("provider", repr(name), f"{known} or {CPU}, for this bundle")
    return BY_NAME[name]


def open_on_device(library: ModuleType, opening: Opening, asked: str = "") -> Opened:
    """The session of the first provider that takes the graph; UnsupportedError if none does."""
    refused = []
    for provider in candidates(library, accepted(opening.options), asked):
        try:
            return _opened(opening, provider)
        except EdgecompileError as error:
            refused.append(f"{provider.title}: {error.found}")
    raise UnsupportedError(
        "onnxruntime", "; ".join(refused), "a device that takes every product of the graph",
        f"ask for the CPU by name: provider='cpu', {VARIABLE}=cpu",
    )  # fmt: skip


def _opened(opening: Opening, provider: Provider) -> Opened:
    session = opening.make([provider.engine])
    session.disable_fallback()  # else an error of the device would run the graph again on the CPU
    used = session.get_providers()
    if used[0] != provider.engine:
        raise UnsupportedError(provider.title, f"the session took {used[0]} instead")
    left: list[tuple[str, str]] = []
    if provider.name != CPU:
        left = list(on_host(session))
        if wrong := misplaced(left, _marked(opening.options)):
            found = f"{len(wrong)} nodes of floats would run on the CPU, {wrong[0]!r} first"
            raise UnsupportedError(provider.title, found)
    step = opening.prove(session, provider)
    software = software_driver() if provider.name == "webgpu" else ""
    title = f"{provider.title} on {software} (software)" if software else provider.title
    return Opened(session, provider, title, bool(software) or provider.name == CPU, len(left), step)


def _marked(options: Mapping[str, Any]) -> frozenset[str]:
    names = options.get("device_nodes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError("manifest: engine.options.device_nodes", f"{names!r:.100}", "names")
    return frozenset(names)


def misplaced(left: Iterable[tuple[str, str]], marked: Collection[str]) -> list[str]:
    """Names of the nodes left to the CPU that read floats, by operator or as the manifest marks."""
    return [name for name, kind in left if name in marked or kind not in HOST_OPERATORS]


def on_host(session: InferenceSession) -> Iterator[tuple[str, str]]:
    """Name and operator of each node that ONNX Runtime put on its CPU provider."""
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name == BY_NAME[CPU].engine:
            yield from ((node.name, node.op_type) for node in part.get_nodes())


def software_driver() -> str:
    """The software that stands for a GPU in this process, from the drivers it has mapped (Linux).

    Empty where a driver of a real one is mapped too, or none is known.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    names = {line.rpartition("/")[2] for line in lines if "/" in line}
    drivers = [name for name in names if name.startswith(DRIVERS)]
    found = {title for part, title in SOFTWARE.items() if any(part in name for name in drivers)}
    real = [name for name in drivers if not any(part in name for part in SOFTWARE)]
    return "" if real else "/".join(sorted(found))
