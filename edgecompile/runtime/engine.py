"""What the session asks of an engine, and which engine a manifest asks for."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import UnsupportedError, UsageError
from .manifest import ENCODED, IMAGE_TEXT, Manifest

Float32 = NDArray[np.float32]
LOGIT_ROWS = 128  # logits are handed out in chunks of at most so many rows


class Decoder(Protocol):
    """One text being generated: its past is kept by the engine."""

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last, valid until the next call."""
        ...

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab], each valid until the next."""
        ...


class Engine(Protocol):
    """A model opened by an engine. Every method may be called from several threads at once."""

    version: str

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The file's outputs by name for its inputs by name."""
        ...

    def encode(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Sequence[Float32] | Float32:
        """One answer a token list: [n, width], or a row a token, padded: n times [>= len, width].

        `types` say of which text of a pair a token is, None: all are of the first.
        """
        ...

    def decoder(self, length: int) -> AbstractContextManager[Decoder]:
        """A decoder with an empty past and room for `length` tokens."""
        ...

    def close(self) -> None:
        """Free what is idle now, the rest when the last caller is done with it."""
        ...


def open_engine(
    bundle: Path, manifest: Manifest, threads: int, pad_id: int, provider: str = ""
) -> Engine:
    """Open the manifest's engine file; MissingLibraryError says which `pip install` is lacking.

    `provider` asks for one of ONNX Runtime's by name (providers.BY_NAME); empty: the first there.
    """
    name = manifest.engine.name
    if manifest.task in ENCODED:
        from . import seq2seq_engines

        return seq2seq_engines.open_engine(bundle, manifest, threads)
    if manifest.task == IMAGE_TEXT:
        from . import towers

        return towers.open_towers(bundle, manifest, threads, provider)
    if name == "onnxruntime":
        from .onnxruntime_engine import OnnxEngine

        return OnnxEngine(bundle, manifest, threads, pad_id, provider)
    if provider:
        raise UsageError("provider", f"{provider!r} for {name}", "none: onnxruntime alone has them")
    if name == "llama_cpp":
        from .llama_engine import LlamaEngine

        return LlamaEngine(bundle, manifest, threads)
    if name == "openvino":
        from .openvino_engine import OpenvinoEngine

        return OpenvinoEngine(bundle, manifest, threads, pad_id)
    if name == "executorch":
        from .executorch_engine import ExecutorchEngine

        return ExecutorchEngine(bundle, manifest, threads)
    if name == "aotinductor":
        from .aotinductor_engine import AotinductorEngine

        return AotinductorEngine(bundle, manifest, threads, pad_id)
    known = "onnxruntime, llama_cpp, openvino, executorch or aotinductor"
    raise UnsupportedError("engine", repr(name), known)
