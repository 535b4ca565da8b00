"""ExecuTorch's Python runtime: one text at a time through XNNPACK, decoders with a fixed cache."""
from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Float32
from .errors import (
    BadInputError,
    EdgecompileError,
    MissingLibraryError,
    UnsupportedError,
    UsageError,
)
from .executorch_decoder import ExecutorchDecoder
from .manifest import Manifest
from .pool import Pool

METHOD = "forward"
OPERATORS = (  # attention with a KV cache, embeddings in codes
    "extension/llm/custom_ops/libcustom_ops_aot_lib.*", "kernels/quantized/libquantized_ops_aot*",
)  # fmt: skip
_OPENING = threading.Lock()


class ExecutorchEngine:
    """A .pte file. A method computes in memory of its own, so each lease has one."""

    def __init__(self, bundle: Path, manifest: Manifest, threads: int) -> None:
        self._file, self._manifest = bundle / manifest.engine.file, manifest
        self._library = library(manifest, threads)
        self._refuse_other_devices()
        self.version: str = metadata.version("executorch")
        ports = manifest.data["inputs"], manifest.data["outputs"]
        self._inputs = {port["name"]: port for port in ports[0]}
        self._outputs = [port["name"] for port in ports[1]]
        self._methods: Pool[_Method] = Pool(self._create_method, end=lambda: None)
        self._decoders: Pool[ExecutorchDecoder] = Pool(self._create_decoder, end=lambda: None)
        first = self._decoders if manifest.task == "text-generation" else self._methods
        with first.lease():
            pass  # a file that does not load is found out now

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The file's outputs by name; inputs are checked by name, dtype and shape first."""
        if self._manifest.task == "text-generation":
            raise UnsupportedError("run", f"inputs {sorted(arrays)}", "generate, or logits")
        if set(arrays) != set(self._inputs):
            raise UsageError("run", f"inputs {sorted(arrays)}", f"{sorted(self._inputs)}")
        for name, array in arrays.items():
            _check(self._inputs[name], array)
            if self._inputs[name]["name"] == "input_ids":
                self._check_tokens(array)
        ordered = [np.ascontiguousarray(arrays[name]) for name in self._inputs]
        with self._methods.lease() as method:
            values = method.call(ordered)
        return dict(zip(self._outputs, values, strict=True))

    def encode(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> list[Float32]:
        """The file's first output [width] or [len, width]: each text by itself, none is padded."""
        given = [[self._tokens(row)] for row in ids]
        for at, arrays in enumerate(given):
            arrays.extend(self._kinds(len(ids[at]), types[at] if types else ()))
        with self._methods.lease() as method:
            return [method.call(arrays)[0][0].astype(np.float32, copy=False) for arrays in given]

    def _kinds(self, length: int, types: Sequence[int]) -> list[NDArray[np.int64]]:
        """The second input of a file that takes pairs: nothing for others."""
        if "token_type_ids" in self._inputs:
            return [np.array([types or [0] * length], np.int64)]
        if any(types) and self._manifest.engine.options.get("single_texts"):
            raise UnsupportedError(
                "pairs of texts", "this file takes all tokens for the first text's", "single texts",
                "build it for text-ranking, or for another engine",
            )  # fmt: skip
        return []

    def decoder(self, length: int) -> AbstractContextManager[ExecutorchDecoder]:
        """A decoder whose cache is as long as the file says."""
        if self._manifest.task != "text-generation":
            raise UsageError("generate", "a bundle without a decoder", "task text-generation")
        return self._decoders.lease(length)

    def close(self) -> None:
        """Free idle methods now, others when their lease ends."""
        self._methods.close()
        self._decoders.close()

    def _refuse_other_devices(self) -> None:
        """A file for Core ML or Vulkan needs an ExecuTorch built with that delegate."""
        wanted = str(self._manifest.engine.options.get("delegate", ""))
        there = self._library._get_registered_backend_names()
        if wanted and wanted not in there:
            found = f"a file for {wanted}; this ExecuTorch has {', '.join(sorted(there))}"
            raise UnsupportedError(self._file.name, found, "an ExecuTorch built with it")

    def _tokens(self, row: Sequence[int]) -> NDArray[np.int64]:
        tokens = np.asarray([row], np.int64)
        self._check_tokens(tokens)
        return tokens

    def _check_tokens(self, tokens: NDArray[Any]) -> None:
        """Its kernels end the process over an index out of range."""
        options = self._manifest.engine.options
        limit, longest = (int(options.get(name, 0)) for name in ("vocabulary", "length_limit"))
        if not 1 <= tokens.size <= longest:
            raise UsageError("token ids", f"{tokens.size} tokens", f"1 to {longest}")
        if tokens.min() < 0 or tokens.max() >= limit:
            found = f"{tokens.min()} to {tokens.max()}"
            raise UsageError("token ids", found, f"0 to {limit - 1}")

    def _create_method(self, _: int) -> _Method:
        return _Method(self._load())

    def _create_decoder(self, _: int) -> ExecutorchDecoder:
        return ExecutorchDecoder(self._load(), self._manifest)

    def _load(self) -> Any:
        """The method, loaded into memory of its own."""
        try:
            method = str(self._manifest.engine.options.get("method", METHOD))
            return self._library._load_program(str(self._file)).load_method(method)
        except (RuntimeError, ValueError) as error:
            expected = "a program that this ExecuTorch can load"
            raise BadInputError(str(self._file), str(error), expected) from error


class _Method:
    """A loaded method that is leased to one caller at a time."""

    def __init__(self, method: Any) -> None:
        import torch

        self._method, self._torch = method, torch

    def call(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the file's order, the caller's own."""
        tensors = [self._torch.from_numpy(array) for array in arrays]
        try:
            return [value.numpy() for value in self._method(tensors)]
        except RuntimeError as error:
            shapes = [array.shape for array in arrays]
            raise EdgecompileError("executorch", f"{error} for shapes {shapes}") from error

    def fits(self, size: int) -> bool:
        """Always: shapes are found at each call."""
        return True

    def reset(self) -> None:
        """Nothing is kept between calls."""

    def close(self) -> None:
        """Python frees the method."""


def _check(port: Mapping[str, Any], array: NDArray[Any]) -> None:
    """UsageError for another dtype or shape; a name in a shape stands for any size in `limits`."""
    if array.dtype.name != port["dtype"]:
        raise UsageError(f"run: input {port['name']}", f"dtype {array.dtype}", port["dtype"])
    shape = port["shape"]
    fits = len(shape) == array.ndim and all(
        size == wanted or not isinstance(wanted, int)
        for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or not array.size:
        raise UsageError(f"run: input {port['name']}", f"shape {array.shape}", f"{shape}")


def library(manifest: Manifest, threads: int) -> ModuleType:
    """The bindings, with kernels registered and threads set.

    They pass torch's tensors, so torch is imported. Their package imports the exporter as well:
    the extension module alone is quicker by seconds and prints no warnings.
    """
    with _OPENING:
        return _bindings(manifest, threads)


def _bindings(manifest: Manifest, threads: int) -> ModuleType:
    try:
        torch = _torch()
        import executorch
        from executorch.extension.pybindings import _C
    except ImportError as error:
        way_out = f"pip install '{manifest.engine.requires}' torch"
        raise MissingLibraryError("executorch", str(error), way_out=way_out) from error
    found: ModuleType = _C
    if hasattr(found, "_edgecompile_threads"):
        return found  # its pool may not change while a method uses it
    root = Path(next(iter(executorch.__path__)))
    for pattern in OPERATORS:
        for kernels in sorted(root.glob(pattern)):
            torch.ops.load_library(str(kernels))
    with _no_log():
        found._unsafe_reset_threadpool(threads)
    found._edgecompile_threads = threads  # type: ignore[attr-defined]
    return found


def _torch() -> Any:
    """torch, whose BLAS keeps to the thread that calls it, in this whole process.

    Attention multiplies with it inside ExecuTorch's own threads. Threads below those only wait
    for each other: 64 tokens took 25 times as long on a busy machine.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the library is loaded, for all threads to come
    try:
        import torch
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    torch.set_num_threads(1)  # this thread's, where torch was there before
    with suppress(OSError, AttributeError):  # and MKL's of all threads; other BLAS have no such
        library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
        ctypes.CDLL(str(library)).mkl_serv_set_num_threads(1)
    return torch


@contextmanager
def _no_log() -> Iterator[None]:
    """ExecuTorch tells standard error which files of /sys it reads."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
