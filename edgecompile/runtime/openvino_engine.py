"""OpenVINO on the CPU: encoders and plain modules in one call, decoders with a cache of its own."""
from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError, MissingLibraryError, UnsupportedError, UsageError
from .manifest import Manifest
from .named_inputs import NamedInputs
from .openvino_decoder import OpenvinoDecoder
from .pool import Pool

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest

DATA = "openvino_model.bin"  # the constants of all graphs, where a model has several
DEVICE = "CPU"
PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
CAPABILITIES = {"float16": "FP16", "bfloat16": "BF16"}  # float32 is everywhere
GROUPS = (0, 32, 64, 128)  # columns of an input that share a scale; 0: floats
KV_CACHES = ("u8", "f16", "f32")
Choice = TypeVar("Choice", str, int)


class OpenvinoEngine(NamedInputs):
    """One compiled model; each caller has an infer request of its own."""

    def __init__(self, bundle: Path, manifest: Manifest, threads: int, pad_id: int) -> None:
        opened = library(manifest)
        self.version: str = opened.__version__.partition("-")[0]
        file = bundle / manifest.engine.file
        data = file.with_name(DATA) if manifest.engine.graphs else None
        self._compiled = open_file(opened, file, manifest, threads, data)
        ports = self._compiled.inputs
        dtypes = {p.get_any_name(): p.get_element_type().to_dtype().name for p in ports}
        super().__init__(dtypes, pad_id)
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]
        self._requests: Pool[_Request] = Pool(self._create_request, end=lambda: None, keep=4)
        self._decoders: Pool[OpenvinoDecoder] | None = None
        self._context = manifest.generation.context_length if manifest.generation else 0
        if manifest.task == "text-generation":
            self._decoders = Pool(self._create_decoder, end=lambda: None)

    def decoder(self, length: int) -> AbstractContextManager[OpenvinoDecoder]:
        """A decoder whose cache grows as it is fed."""
        if self._decoders is None:
            raise UsageError("generate", "a bundle without a decoder", "task text-generation")
        return self._decoders.lease(length)

    def close(self) -> None:
        """Let go of idle requests; the compiled model goes with the last of them."""
        self._requests.close()
        if self._decoders is not None:
            self._decoders.close()

    def _create_request(self, _: int) -> _Request:
        return _Request(self._compiled.create_infer_request())

    def _create_decoder(self, _: int) -> OpenvinoDecoder:
        vocabulary = self._compiled.output("logits").get_partial_shape()[2].get_length()
        request = self._compiled.create_infer_request()
        return OpenvinoDecoder(request, vocabulary, self._context)

    def _call(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with self._requests.lease() as leased:
            try:
                found = leased.request.infer(dict(arrays), share_inputs=True, share_outputs=False)
            except RuntimeError as error:
                shapes = {name: array.shape for name, array in arrays.items()}
                raise UsageError("run", f"{_reason(error)} for shapes {shapes}") from error
            return {name: np.array(found[name]) for name in self._outputs}


class _Request:
    """An infer request that is leased to one caller at a time."""

    def __init__(self, request: InferRequest) -> None:
        self.request = request

    def fits(self, size: int) -> bool:
        """Always: shapes are found at each call."""
        return True

    def reset(self) -> None:
        """Nothing is kept between calls."""

    def close(self) -> None:
        """Python frees the request."""


def library(manifest: Manifest) -> ModuleType:
    """The engine, or MissingLibraryError that says how to install it."""
    try:
        import openvino
    except ImportError as error:
        way_out = f"pip install '{manifest.engine.requires}'"
        raise MissingLibraryError("openvino", "not installed", way_out=way_out) from error
    found: ModuleType = openvino
    return found


def open_file(
    engine: ModuleType, file: Path, manifest: Manifest, threads: int, data: Path | None = None
) -> CompiledModel:
    """One graph, compiled; `data` are its constants where they are not beside it by its name."""
    core = engine.Core()
    settings = _settings(core, manifest, threads)
    try:
        compiled: CompiledModel = core.compile_model(
            str(file) if data is None else core.read_model(str(file), str(data)), DEVICE, settings
        )
    except RuntimeError as error:
        reason = _reason(error)
        raise BadInputError(str(file), reason, "an IR that OpenVINO can compile") from error
    return compiled


def _reason(error: RuntimeError) -> str:
    """The last line: those before name files of OpenVINO's own sources."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)


def _settings(core: Any, manifest: Manifest, threads: int) -> dict[str, Any]:
    """Every setting that changes answers is set, so that none depends on the processor."""
    options = manifest.engine.options
    precision = _one_of("precision", options.get("precision", "float32"), tuple(PRECISIONS))
    group = _one_of("dynamic_group", options.get("dynamic_group", 0), GROUPS)
    can = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    if precision in CAPABILITIES and CAPABILITIES[precision] not in can:
        raise UnsupportedError(
            f"{precision} on this processor", f"it computes {', '.join(can)}",
            CAPABILITIES[precision], "build with target.options.precision=float32",
        )  # fmt: skip
    return {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "CACHE_DIR": "", "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
        "KV_CACHE_PRECISION": _one_of("kv_cache", options.get("kv_cache", "f32"), KV_CACHES),
        # Two processes that pin their threads choose the same cores.
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip


def _one_of(name: str, found: Any, known: tuple[Choice, ...]) -> Choice:
    """The manifest's choice, or BadInputError with what there is."""
    for choice in known:
        if found == choice and isinstance(found, type(choice)):
            return choice
    raise BadInputError(f"engine.options.{name}", repr(found), ", ".join(map(str, known)))
