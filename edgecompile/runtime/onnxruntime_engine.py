"""ONNX Runtime: encoders and plain modules in one call, decoders with a cache bound in place."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from .cpu import has_vnni
from .device_probe import prompt_step
from .engine import Decoder
from .errors import BadInputError, MissingLibraryError, UnsupportedError, UsageError
from .manifest import GENERATING, Manifest
from .named_inputs import NamedInputs, padded
from .onnxruntime_decoder import PROMPT_CHUNK, DecoderLayout, OnnxDecoder
from .onnxruntime_device import DeviceDecoder, DeviceLayout
from .pool import Pool
from .providers import BY_NAME, CPU, OPTIONS, Opened, Opening, Provider, open_on_device

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}


class OnnxEngine(NamedInputs):
    """One InferenceSession; ONNX Runtime allows calls to it from any number of threads."""

    def __init__(
        self, bundle: Path, manifest: Manifest, threads: int, pad_id: int, provider: str = ""
    ) -> None:
        found = library(manifest)
        self.version: str = found.__version__
        opened = _opened(found, bundle, manifest, threads, provider)
        self._session = opened.session
        self.device: dict[str, Any] = {
            "provider": opened.provider.name, "name": opened.device,
            "software": opened.software, "host_nodes": opened.host_nodes,
        }  # fmt: skip
        ports = self._session.get_inputs()
        super().__init__({port.name: DTYPES.get(port.type, port.type) for port in ports}, pad_id)
        self._decoders: Pool[OnnxDecoder] | Pool[DeviceDecoder] | None = None
        if manifest.task == "text-generation" and on_device(manifest):
            layout = DeviceLayout.from_manifest(self._session, manifest)
            self.device["prompt_step"] = opened.step
            self._decoders = _device_pool(opened, layout)
        elif manifest.task == "text-generation":
            self._decoders = _decoder_pool(self._session, manifest)

    def decoder(self, length: int) -> AbstractContextManager[Decoder]:
        """A decoder whose cache grows as it is fed."""
        if self._decoders is None:
            raise UsageError("generate", "a bundle without a decoder", "task text-generation")
        return self._decoders.lease(length)

    def close(self) -> None:
        """Let go of idle caches; the session itself goes with the last call that uses it."""
        if self._decoders is not None:
            self._decoders.close()

    def _call(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [port.name for port in self._session.get_outputs()]
        try:
            values = self._session.run(names, dict(arrays))
        except Exception as error:  # its classes share no base but Exception
            if self.device["provider"] != CPU:
                raise UnsupportedError(self.device["name"], str(error)) from error
            shapes = {name: array.shape for name, array in arrays.items()}
            raise UsageError("run", f"{error} for shapes {shapes}") from error
        return dict(zip(names, values, strict=True))


def library(manifest: Manifest) -> ModuleType:
    """The engine, or MissingLibraryError that says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        way_out = f"pip install '{manifest.engine.requires}'"
        raise MissingLibraryError("onnxruntime", "not installed", way_out=way_out) from error
    onnxruntime.disable_telemetry_events()
    found: ModuleType = onnxruntime
    return found


def open_file(engine: ModuleType, file: Path, threads: int, task: str) -> InferenceSession:
    """One graph on the CPU, with every setting that changes answers."""
    return _open(engine, file, _options(engine, threads, task), [BY_NAME[CPU].engine])


def on_device(manifest: Manifest) -> bool:
    """Whether the bundle is for a GPU."""
    return manifest.engine.options.get("device") == "gpu"


def _opened(
    library: ModuleType, bundle: Path, manifest: Manifest, threads: int, asked: str
) -> Opened:
    """On the CPU, or for a bundle for GPUs on the first device that takes it."""
    file, task = bundle / manifest.engine.file, manifest.task

    def make(providers: Sequence[str]) -> InferenceSession:
        options = _options(library, threads, task)
        if on_device(manifest):
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return _open(library, file, options, providers)

    def prove(session: InferenceSession, provider: Provider) -> int:
        if provider.name == CPU:
            return PROMPT_CHUNK
        if task == "text-generation":
            return prompt_step(library, bundle, manifest, provider)
        if manifest.tokenizer is not None:  # other inputs have sizes of their own
            _warm_up(session)
        return PROMPT_CHUNK

    if on_device(manifest):
        return open_on_device(library, Opening(make, prove, manifest.engine.options), asked)
    cpu = BY_NAME[CPU]
    if asked not in ("", CPU):
        raise UnsupportedError("provider", repr(asked), "a bundle for GPUs; this one is for CPUs")
    return Opened(make([cpu.engine]), cpu, cpu.title, software=False, host_nodes=0)


def _warm_up(session: InferenceSession) -> None:
    """Two tokens: kernels are made, and a device that cannot make them is found out now."""
    dtypes = {port.name: DTYPES.get(port.type, port.type) for port in session.get_inputs()}
    try:
        session.run(None, padded([[0, 0]], 0, dtypes))
    except Exception as error:  # its classes share no base but Exception
        raise UnsupportedError("onnxruntime", str(error)) from error


def _options(library: ModuleType, threads: int, task: str) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between a graph's hundreds of small nodes made a token 11 % and a sentence
    # 15 % faster (2 threads) than threads that sleep; they sleep soon after the last node.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    # On arm64 those kernels round a whole row of activations to one int8 range, where MLAS's own
    # round blocks of 32: four times the divergence from the exact codes (docs/arm64.md).
    options.add_session_config_entry("mlas.disable_kleidiai", "1")
    if not has_vnni():
        # Two u8 x s8 products saturate at 16 bits there; u8 x u8, half as fast, does not.
        options.add_session_config_entry("session.x64quantprecision", "1")
    # A memory plan is kept for every shape seen; a decoder sees a new one each token.
    options.enable_mem_pattern = task not in GENERATING
    options.log_severity_level = 4  # errors are raised as well; nothing goes to stderr
    return options


def _open(
    library: ModuleType, file: Path, options: Any, providers: Sequence[str]
) -> InferenceSession:
    named = [(name, dict(OPTIONS.get(name, {}))) for name in providers]
    try:
        session: InferenceSession = library.InferenceSession(
            str(file), options, providers=named, enable_fallback=0
        )
    except Exception as error:  # its classes share no base but Exception
        raise BadInputError(str(file), str(error), "a graph ONNX Runtime can open") from error
    return session


def _decoder_pool(session: InferenceSession, manifest: Manifest) -> Pool[OnnxDecoder]:
    layout = DecoderLayout.from_manifest(session, manifest)

    def create(_: int) -> OnnxDecoder:
        return OnnxDecoder(session, layout)

    return Pool(create, end=lambda: None)


def _device_pool(opened: Opened, layout: DeviceLayout) -> Pool[DeviceDecoder]:
    def create(_: int) -> DeviceDecoder:
        return DeviceDecoder(opened.session, layout, opened.provider.memory, opened.step)

    return Pool(create, end=lambda: None)
