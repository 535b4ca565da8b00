"""Encoder-decoders in each engine: two graphs, opened by what opens one."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import executorch_engine, onnxruntime_engine, openvino_engine
from .engine import Float32
from .errors import BadInputError, EdgecompileError, UnsupportedError
from .manifest import Manifest
from .pool import Pool
from .seq2seq import FEATURES, Graphs, Layout, Seq2SeqDecoder

ENCODER, DECODER = "encoder", "decoder"


class Seq2SeqEngine:
    """Both graphs in one engine; each lease has what one caller at a time uses."""

    def __init__(self, version: str, create: Callable[[], Graphs], manifest: Manifest) -> None:
        self.version, layout = version, Layout.from_manifest(manifest)
        self._pool: Pool[Seq2SeqDecoder] = Pool(
            lambda _: Seq2SeqDecoder(create(), layout), end=lambda: None
        )
        with self._pool.lease():
            pass  # a file that does not load is found out now

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The graphs have no use of their own."""
        raise UnsupportedError("run", f"inputs {sorted(arrays)}", "generate, or logits")

    def encode(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Float32:
        """No row stands for a text here."""
        raise UnsupportedError("encode", f"{len(ids)} texts", "generate, or logits")

    def decoder(self, length: int) -> AbstractContextManager[Seq2SeqDecoder]:
        """A decoder that waits for its source."""
        return self._pool.lease(length)

    def close(self) -> None:
        """Free what is idle now, the rest when its lease ends."""
        self._pool.close()


def open_engine(bundle: Path, manifest: Manifest, threads: int) -> Seq2SeqEngine:
    """Open the manifest's graphs."""
    name = manifest.engine.name
    if name not in OPENERS:
        raise UnsupportedError("engine", repr(name), f"{', '.join(OPENERS)} for {manifest.task}")
    version, create = OPENERS[name](bundle, manifest, threads)
    return Seq2SeqEngine(version, create, manifest)


Opened = tuple[str, Callable[[], Graphs]]


def _files(bundle: Path, manifest: Manifest) -> tuple[Path, Path]:
    graphs = manifest.engine.graphs
    if set(graphs) != {ENCODER, DECODER}:
        raise BadInputError("manifest: engine.graphs", f"{sorted(graphs)}", f"{ENCODER}, {DECODER}")
    return bundle / graphs[ENCODER], bundle / graphs[DECODER]


def _given(manifest: Manifest) -> str:
    """What the encoder's input is called."""
    names = [port["name"] for port in manifest.data["inputs"]]
    return FEATURES if FEATURES in names else "input_ids"


def _open_onnx(bundle: Path, manifest: Manifest, threads: int) -> Opened:
    library = onnxruntime_engine.library(manifest)
    encoder, decoder = (
        onnxruntime_engine.open_file(library, file, threads, manifest.task)
        for file in _files(bundle, manifest)
    )
    return str(library.__version__), lambda: _Onnx(encoder, decoder, _given(manifest))


class _Onnx:
    """ONNX Runtime reads numpy's memory and allows calls from any thread."""

    def __init__(self, encoder: Any, decoder: Any, given: str) -> None:
        self._encoder, self._decoder, self._given = encoder, decoder, given

    def encode(self, source: NDArray[Any]) -> Any:
        return self._call(self._encoder, ["cross"], {self._given: source})[0]

    def decode(self, ids: NDArray[np.int64], past: Float32, cross: Any) -> tuple[Float32, Float32]:
        given = {"decoder_input_ids": ids, "past": past, "cross": cross}
        logits, present = self._call(self._decoder, ["logits", "present"], given)
        return logits, present

    @staticmethod
    def _call(session: Any, names: list[str], given: Mapping[str, Any]) -> Any:
        try:
            return session.run(names, dict(given))
        except Exception as error:  # its classes share no base but Exception
            shapes = {name: array.shape for name, array in given.items()}
            raise EdgecompileError("onnxruntime", f"{error} for shapes {shapes}") from error


def _open_openvino(bundle: Path, manifest: Manifest, threads: int) -> Opened:
    library = openvino_engine.library(manifest)
    files = _files(bundle, manifest)
    data = files[0].with_name(openvino_engine.DATA)
    encoder, decoder = (
        openvino_engine.open_file(library, file, manifest, threads, data) for file in files
    )
    version = library.__version__.partition("-")[0]
    return version, lambda: _Openvino(encoder, decoder, _given(manifest))


class _Openvino:
    """A request of each graph, whose outputs lie in its own memory."""

    def __init__(self, encoder: Any, decoder: Any, given: str) -> None:
        self._encoder, self._given = encoder.create_infer_request(), given
        self._decoder = decoder.create_infer_request()

    def encode(self, source: NDArray[Any]) -> Any:
        return np.array(self._call(self._encoder, {self._given: source})["cross"])

    def decode(self, ids: NDArray[np.int64], past: Float32, cross: Any) -> tuple[Float32, Float32]:
        given = {"decoder_input_ids": ids, "past": past, "cross": cross}
        found = self._call(self._decoder, given)
        return found["logits"], found["present"]

    @staticmethod
    def _call(request: Any, given: Mapping[str, Any]) -> Any:
        try:
            return request.infer(dict(given), share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            shapes = {name: array.shape for name, array in given.items()}
            raise EdgecompileError("openvino", f"{error} for shapes {shapes}") from error


def _open_executorch(bundle: Path, manifest: Manifest, threads: int) -> Opened:
    library = executorch_engine.library(manifest, threads)
    file = str(bundle / manifest.engine.file)

    def create() -> _Executorch:
        try:
            return _Executorch(library._load_program(file))
        except (RuntimeError, ValueError) as error:
            expected = "a program that this ExecuTorch can load"
            raise BadInputError(file, str(error), expected) from error

    return metadata.version("executorch"), create


class _Executorch:
    """Two methods of one file, each with memory of its own."""

    def __init__(self, program: Any) -> None:
        import torch

        self._torch, self._program = torch, program
        self._encoder, self._decoder = (program.load_method(name) for name in (ENCODER, DECODER))

    def encode(self, source: NDArray[Any]) -> Any:
        return self._call(self._encoder, [self._torch.from_numpy(source)])[0].clone()

    def decode(self, ids: NDArray[np.int64], past: Float32, cross: Any) -> tuple[Float32, Float32]:
        given = [self._torch.from_numpy(ids), self._torch.from_numpy(past), cross]
        logits, present = self._call(self._decoder, given)
        return logits.numpy(), present.numpy()

    @staticmethod
    def _call(method: Any, given: Sequence[Any]) -> Any:
        try:
            return method(given, False)
        except RuntimeError as error:
            shapes = [tuple(tensor.shape) for tensor in given]
            raise EdgecompileError("executorch", f"{error} for shapes {shapes}") from error


OPENERS: Mapping[str, Callable[[Path, Manifest, int], Opened]] = {
    "onnxruntime": _open_onnx, "openvino": _open_openvino, "executorch": _open_executorch,
}  # fmt: skip
