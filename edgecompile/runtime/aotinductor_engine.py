"""AOTInductor's packages: native code that torch loads into this process, given its tensors."""
from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import tensor_file
from .cpu import missing_for
from .engine import Decoder
from .errors import BadInputError, MissingLibraryError, UnsupportedError, UsageError
from .manifest import Manifest
from .named_inputs import NamedInputs

MODEL = "model"  # the name of the only one in a package
TENSORS = "weights.safetensors"  # beside it
FOLDED = "_FOLDED_CONST_"  # constants that the code computes from others
MACHINES = {"aarch64": "arm64", "amd64": "x86_64"}


class AotinductorEngine(NamedInputs):
    """One package; its code waits where two callers come at once."""

    def __init__(self, bundle: Path, manifest: Manifest, threads: int, pad_id: int) -> None:
        self._torch, self.version = _library(manifest)
        super().__init__(
            {port["name"]: str(port["dtype"]) for port in manifest.data["inputs"]}, pad_id
        )
        self._options, self._threads = manifest.engine.options, threads
        _refuse_other_machines(self._torch, self._options)
        self._outputs = [str(port["name"]) for port in manifest.data["outputs"]]
        self._device = _stated(self._options, "device")
        file = bundle / manifest.engine.file
        self._loader = self._load(file)
        tensors = tensor_file.read(file.with_name(TENSORS))
        self._kept = self._give(file, tensors)

    def decoder(self, length: int) -> AbstractContextManager[Decoder]:
        """None: decoders are not written for this engine."""
        raise UsageError("generate", "a bundle without a decoder", "task text-generation")

    def close(self) -> None:
        """Python frees the package with the engine."""

    def _load(self, file: Path) -> Any:
        try:
            return self._torch._C._aoti.AOTIModelPackageLoader(str(file), MODEL, False, 1, -1)
        except RuntimeError as error:
            raise BadInputError(str(file), _reason(error), "a .pt2 that torch can load") from error

    def _give(self, file: Path, tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Hand the code its constants, which stay where they are mapped; they must outlive it."""
        asked = {n for n in self._loader.get_constant_fqns() if not n.startswith(FOLDED)}
        if asked != set(tensors):
            differing = sorted(asked ^ set(tensors))[:3]
            raise BadInputError(str(file), f"tensors {differing}", "those of the file beside it")
        given = {name: self._tensor(array) for name, array in tensors.items()}
        try:
            self._loader.load_constants(given, False, True, True)
        except RuntimeError as error:
            raise BadInputError(str(file), _reason(error), "tensors that its code takes") from error
        return given

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self._torch.from_numpy(array).to(self._device)

    def _call(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        torch = self._torch
        if torch.get_num_threads() != self._threads:  # each thread that calls has its own number
            torch.set_num_threads(self._threads)
        given = [torch.from_numpy(np.ascontiguousarray(arrays[n])) for n in self._inputs]
        try:
            found = self._loader.run([one.to(self._device) for one in given])
        except RuntimeError as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise UsageError("run", f"{_reason(error)} for inputs {shapes}") from error
        values = [np.array(value.cpu().numpy()) for value in found]
        return dict(zip(self._outputs, values, strict=True))


def _library(manifest: Manifest) -> tuple[Any, str]:
    """torch and its version; native code fits the C interface of the minor version it was for."""
    try:
        import torch
    except ImportError as error:
        way_out = f"pip install '{manifest.engine.requires}'"
        raise MissingLibraryError("torch", "not installed", way_out=way_out) from error
    version = str(torch.__version__).partition("+")[0]
    tested = manifest.engine.tested
    if version.split(".")[:2] != tested.split(".")[:2]:
        raise UnsupportedError(
            "torch", f"version {version}", f"{tested}, whose interface the code was compiled for",
            f"pip install '{manifest.engine.requires}', or build the bundle with {version}",
        )  # fmt: skip
    return torch, version


def _refuse_other_machines(torch: Any, options: Mapping[str, Any]) -> None:
    """Native code ends the process on a processor that lacks an instruction."""
    machine = platform.machine().lower()
    here = f"{platform.system().lower()}-{MACHINES.get(machine, machine)}"
    if here != (wanted := _stated(options, "platform")):
        raise UnsupportedError(
            "this machine", here, wanted, "build the bundle on such a machine"
        )
    if lacking := missing_for(level := _stated(options, "level")):
        raise UnsupportedError(
            "this processor", f"no {', '.join(lacking)}", level,
            "another target, for example --target cpu",
        )  # fmt: skip
    if _stated(options, "device") == "cuda":
        _refuse_other_gpus(torch, _stated(options, "compute_capability"))


def _stated(options: Mapping[str, Any], key: str) -> str:
    found = options.get(key)
    if not isinstance(found, str) or (key == "device" and found not in ("cpu", "cuda")):
        expected = "cpu or cuda" if key == "device" else "a text"
        raise BadInputError(f"engine.options.{key}", repr(found), expected)
    return found


def _refuse_other_gpus(torch: Any, wanted: str) -> None:
    if not torch.cuda.is_available():
        raise UnsupportedError(
            "this machine", "no CUDA device, or a torch without CUDA", "one, as it was built for",
            "another target, for example --target cpu",
        )  # fmt: skip
    major, minor = torch.cuda.get_device_capability()
    if (found := f"{major}.{minor}") != wanted:
        raise UnsupportedError(
            "this GPU", f"compute capability {found}", wanted, "build the bundle on this machine"
        )


def _reason(error: RuntimeError) -> str:
    """The first line: the rest is a trace of C++."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else repr(error)
