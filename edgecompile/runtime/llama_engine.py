"""llama.cpp through llama-cpp-python's low-level API: fed with ids, silent, weights mapped."""
from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import LOGIT_ROWS, Float32
from .errors import (
    BadInputError,
    EdgecompileError,
    MissingLibraryError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from .manifest import Manifest
from .pool import Pool

FIRST_CONTEXT = 512  # tokens; longer ones double it, up to the model's context
PROMPT_BATCH = 512  # tokens a call
ENCODER_BATCH = 512  # tokens a call: its attention costs the square of them
FLASH_ATTENTION = 1  # enum llama_flash_attn_type: ENABLED
ENCODER_TEXTS = 32  # sequences a call


class LlamaEngine:
    """A GGUF file; each decoder or encoder call has a context of its own, a few are kept."""

    def __init__(self, bundle: Path, manifest: Manifest, threads: int) -> None:
        self._library = library = _library(manifest)
        self.version: str = library.__version__
        self._threads = threads
        self._model = _open(library, bundle / manifest.engine.file)
        self._limit = _context_limit(library, self._model, manifest)
        self._small_cache = manifest.engine.options.get("kv_cache_bits") == 8
        encoder = manifest.task == "embedding"
        self._pool: Pool[LlamaContext] = Pool(
            create=self._create_encoder if encoder else self._create_decoder,
            end=self._end,
        )

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """llama.cpp has no raw inputs by name."""
        raise UnsupportedError("run", f"inputs {sorted(arrays)}", "embed or generate")

    def encode(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Float32:
        """Pooled vectors float32 [n, dim], not normalized; it has no pairs."""
        if types is not None:
            raise UnsupportedError("llama.cpp", "a pair of texts", "single texts")
        longest = max(map(len, ids))
        if longest > self._limit:
            raise UsageError("token ids", f"{longest} tokens", f"at most {self._limit}")
        with self._pool.lease(max(longest, ENCODER_BATCH)) as context:
            return np.concatenate([context.encode(part) for part in _packed(ids, context)])

    def decoder(self, length: int) -> AbstractContextManager[LlamaContext]:
        """A context with an empty past."""
        return self._pool.lease(length)

    def close(self) -> None:
        """Free idle contexts now, and the model once the last one in use has come back."""
        self._pool.close()

    def __del__(self) -> None:
        """Free a model that nobody closed, but not while Python takes its modules apart."""
        if hasattr(self, "_pool") and not sys.is_finalizing():
            self.close()

    def _create_decoder(self, length: int) -> LlamaContext:
        capacity = FIRST_CONTEXT
        while capacity < length:
            capacity *= 2
        parameters = self._parameters(min(capacity, self._limit))
        parameters.n_batch = parameters.n_ubatch = min(PROMPT_BATCH, parameters.n_ctx)
        if self._small_cache:
            parameters.type_k = parameters.type_v = self._library.GGML_TYPE_Q8_0
            parameters.flash_attn_type = FLASH_ATTENTION  # no other kernel reads such values
        return LlamaContext(self._library, self._model, parameters)

    def _create_encoder(self, length: int) -> LlamaContext:
        # An encoder sees its batch at once: with n_batch or n_ubatch below n_ctx it aborts.
        parameters = self._parameters(length)
        parameters.n_batch = parameters.n_ubatch = length
        parameters.n_seq_max = ENCODER_TEXTS
        parameters.kv_unified = True  # else each sequence gets a 32nd of n_ctx
        parameters.embeddings = True
        return LlamaContext(self._library, self._model, parameters)

    def _parameters(self, capacity: int) -> Any:
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx = capacity
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.no_perf = True
        return parameters

    def _end(self) -> None:
        self._library.llama_model_free(self._model)


class LlamaContext:
    """A llama_context and the one batch that feeds it; closed exactly once."""

    def __init__(self, library: ModuleType, model: Any, parameters: Any) -> None:
        self._library = library
        self.capacity = int(parameters.n_ctx)
        self.batch_limit = int(parameters.n_batch)
        self._context = library.llama_init_from_model(model, parameters)
        if not self._context:
            found = f"no context of {self.capacity} tokens"
            raise ResourceError("llama.cpp", found, "memory for it")
        vocabulary = library.llama_model_get_vocab(model)
        self._vocabulary = int(library.llama_vocab_n_tokens(vocabulary))
        self._dimension = int(library.llama_model_n_embd(model))
        self._batch = library.llama_batch_init(self.batch_limit, 0, 1)
        self._memory = library.llama_get_memory(self._context)
        self._length = 0

    def fits(self, size: int) -> bool:
        """Whether so many tokens have room."""
        return self.capacity >= size

    def close(self) -> None:
        """Free the context and its batch."""
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last, valid until the next call."""
        self._check_room(len(ids))
        for start in range(0, len(ids), self.batch_limit):
            part = ids[start : start + self.batch_limit]
            self._append(part, last_only=True)
        logits: Float32 = self._rows(len(part) - 1, 1)[0]
        return logits

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab]."""
        self._check_room(len(ids))
        rows = min(LOGIT_ROWS, self.batch_limit)
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            self._append(part, last_only=False)
            yield self._rows(0, len(part))

    def encode(self, ids: Sequence[Sequence[int]]) -> Float32:
        """Pooled vectors float32 [n, dim] of the lists, which fit one batch together."""
        batch, at = self._batch, 0
        for sequence, row in enumerate(ids):
            for position, token in enumerate(row):
                self._set(at, token, position, sequence, wanted=True)
                at += 1
        batch.n_tokens = at
        if self._memory:
            self._library.llama_memory_clear(self._memory, True)
        self._decode()
        return np.stack([self._vector(sequence) for sequence in range(len(ids))])

    def reset(self) -> None:
        """Forget the past."""
        self._length = 0
        if self._memory:
            self._library.llama_memory_clear(self._memory, False)

    def _vector(self, sequence: int) -> Float32:
        pointer = self._library.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise EdgecompileError("llama.cpp", "no pooled vector", "a file with a pooling type")
        return np.ctypeslib.as_array(pointer, (self._dimension,)).copy()

    def _append(self, ids: Sequence[int], *, last_only: bool) -> None:
        for at, token in enumerate(ids):
            wanted = not last_only or at == len(ids) - 1
            self._set(at, token, self._length + at, 0, wanted=wanted)
        self._batch.n_tokens = len(ids)
        self._decode()
        self._length += len(ids)

    def _set(self, at: int, token: int, position: int, sequence: int, *, wanted: bool) -> None:
        batch = self._batch
        batch.token[at] = token
        batch.pos[at] = position
        batch.n_seq_id[at] = 1
        batch.seq_id[at][0] = sequence
        batch.logits[at] = wanted

    def _decode(self) -> None:
        code = self._library.llama_decode(self._context, self._batch)
        if code:
            tokens = [self._batch.token[at] for at in range(min(9, self._batch.n_tokens))]
            found = f"code {code} for {self._batch.n_tokens} tokens {tokens}"
            raise EdgecompileError("llama.cpp", found, "code 0")

    def _rows(self, first: int, rows: int) -> Float32:
        """A view float32 [rows, vocab] of llama.cpp's own buffer."""
        pointer = self._library.llama_get_logits_ith(self._context, first)
        return np.ctypeslib.as_array(pointer, (rows, self._vocabulary))

    def _check_room(self, tokens: int) -> None:
        wanted = self._length + tokens
        if not tokens or wanted > self.capacity:
            raise UsageError("tokens", f"{wanted} with those before", f"1 to {self.capacity}")


def _packed(
    ids: Sequence[Sequence[int]], context: LlamaContext
) -> Iterator[Sequence[Sequence[int]]]:
    """Consecutive lists that fit one batch together."""
    start = tokens = 0
    for at, row in enumerate(ids):
        if at > start and (tokens + len(row) > context.batch_limit or at - start == ENCODER_TEXTS):
            yield ids[start:at]
            start, tokens = at, 0
        tokens += len(row)
    yield ids[start:]


def _library(manifest: Manifest) -> ModuleType:
    try:
        import llama_cpp
    except ImportError as error:
        way_out = f"pip install '{manifest.engine.requires}'"
        raise MissingLibraryError("llama_cpp", str(error), way_out=way_out) from error
    llama_cpp.llama_log_set(silence(llama_cpp), ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    library: ModuleType = llama_cpp
    return library


def silence(library: ModuleType) -> Any:
    """A log callback that drops the text; kept on the library so that it is never collected."""
    if not hasattr(library, "_edgecompile_silence"):
        library._edgecompile_silence = library.llama_log_callback(lambda *_: None)  # type: ignore[attr-defined]
    return library._edgecompile_silence


def _open(library: ModuleType, file: Path) -> Any:
    parameters = library.llama_model_default_params()
    model = library.llama_model_load_from_file(str(file).encode(), parameters)
    if not model:
        raise BadInputError(str(file), "llama.cpp could not open it", "a GGUF file it supports")
    return model


def _context_limit(library: ModuleType, model: Any, manifest: Manifest) -> int:
    """The longest text, in tokens: what the model was trained for, or less as the manifest says."""
    trained = int(library.llama_model_n_ctx_train(model))
    return min(trained, int(manifest.engine.options.get("n_ctx") or trained))
