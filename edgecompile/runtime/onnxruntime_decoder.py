"""A decoder graph's loop: past and present are one buffer, bound once, grown by doubling."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .engine import LOGIT_ROWS, Float32
from .errors import BadInputError, EdgecompileError, UsageError
from .manifest import Manifest

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FIRST_CAPACITY = 512  # tokens
PROMPT_CHUNK = 512  # tokens a call when the graph computes only the last logits


@dataclass(frozen=True)
class DecoderLayout:
    """Names and sizes of a decoder graph, from the manifest's engine.options and the graph."""

    caches: tuple[tuple[str, str], ...]  # (past, present) names, a pair a layer and part
    kv_heads: int
    head_size: int
    kv_dtype: np.dtype[Any]
    input_ids: str
    attention_mask: str
    position_ids: str  # empty when the graph has none
    last_tokens: str  # empty when the graph has none
    logits: str
    logits_dtype: np.dtype[Any]
    vocabulary: int
    context_length: int

    @classmethod
    def from_manifest(cls, session: InferenceSession, manifest: Manifest) -> DecoderLayout:
        """Check that the options name what the graph has."""
        options = manifest.engine.options
        where = f"{manifest.engine.file}: engine.options"
        if manifest.generation is None:
            raise BadInputError("manifest", "no generation section", "one for text-generation")
        try:
            names = _names(options)
            caches = cache_names(options)
            sizes = int(options["kv_heads"]), int(options["head_size"])
            kv_dtype: np.dtype[Any] = np.dtype(options["kv_dtype"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadInputError(where, repr(error), "what docs/bundle-format.md lists") from error
        used = {name for name in names[:4] if name} | {past for past, _ in caches}
        graph = {port.name for port in session.get_inputs()}
        if used != graph:
            raise BadInputError(where, f"inputs {sorted(used ^ graph)[:4]}", "the graph's own")
        dtype, vocabulary = logits_port(session, names[4], where)
        context = manifest.generation.context_length
        return cls(caches, *sizes, kv_dtype, *names, dtype, vocabulary, context)


def _names(options: Any) -> tuple[str, str, str, str, str]:
    return (
        str(options.get("input_ids", "input_ids")),
        str(options.get("attention_mask", "attention_mask")),
        str(options.get("position_ids") or ""),
        str(options.get("last_tokens") or ""),
        str(options.get("logits", "logits")),
    )


def cache_names(options: Any) -> tuple[tuple[str, str], ...]:
    """(past, present), a pair a layer and part, from the manifest's patterns."""

    def fill(pattern: str, layer: int, part: str) -> str:
        # Not str.format: a manifest is untrusted, and format reaches attributes.
        return pattern.replace("{layer}", str(layer)).replace("{part}", part)

    return tuple(
        (fill(options["past"], layer, part), fill(options["present"], layer, part))
        for layer in range(int(options["layers"]))
        for part in ("key", "value")
    )


def logits_port(
    session: InferenceSession, name: str, where: str
) -> tuple[np.dtype[Any], int]:
    """Dtype of the logits and the size of the vocabulary."""
    ports = {port.name: port for port in session.get_outputs()}
    port = ports.get(name)
    if port is None or port.type not in ("tensor(float)", "tensor(float16)"):
        raise BadInputError(where, f"no float output {name!r}", "the graph's logits")
    vocabulary = port.shape[-1]
    if not isinstance(vocabulary, int):
        raise BadInputError(where, f"logits of shape {port.shape}", "a known vocabulary size")
    return np.dtype(np.float32 if port.type == "tensor(float)" else np.float16), vocabulary


def capacity_for(length: int, tokens: int, capacity: int, context_length: int) -> int:
    """Tokens that a cache must have room for to take `tokens` more: it doubles, up to the context.

    UsageError for none, and for more than the context holds.
    """
    wanted = length + tokens
    if not tokens or wanted > context_length:
        limit = f"1 to {context_length} (the model's context)"
        raise UsageError("tokens", f"{wanted} with those before", limit)
    grown = capacity
    while grown < wanted:
        grown *= 2
    return max(capacity, min(grown, context_length))


class OnnxDecoder:
    """One past and the buffers around it. ONNX Runtime reads and writes numpy's memory directly."""

    def __init__(self, session: InferenceSession, layout: DecoderLayout) -> None:
        self._session, self._layout = session, layout
        self._binding = session.io_binding()
        self._length = 0
        self._capacity = 0
        self._caches: list[NDArray[Any]] = []
        self._token = np.zeros((1, 1), np.int64)
        self._position = np.zeros((1, 1), np.int64)
        self._logits = np.zeros((1, 1, layout.vocabulary), layout.logits_dtype)
        self._row = self._logits[0, 0]
        self._stepping = False  # the one-token buffers are what is bound
        if layout.last_tokens:
            self._last = np.ones(1, np.int64)
            self._bind(layout.last_tokens, self._last)
        self._grow(FIRST_CAPACITY)

    def fits(self, size: int) -> bool:
        """Always: the cache grows."""
        return True

    def close(self) -> None:
        """Python frees the buffers."""

    def reset(self) -> None:
        """Forget the past; the buffers stay, but for one grown beyond the first size."""
        self._length = 0
        if self._capacity > 4 * FIRST_CAPACITY:
            self._capacity = 0
            self._grow(FIRST_CAPACITY)

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last, valid until the next call."""
        self._reserve(len(ids))
        if len(ids) == 1:
            return self._step(ids[0])
        rows = 1 if self._layout.last_tokens else LOGIT_ROWS
        chunk = PROMPT_CHUNK if self._layout.last_tokens else LOGIT_ROWS
        for start in range(0, len(ids), chunk):
            part = ids[start : start + chunk]
            logits = self._prompt(part, min(rows, len(part)))
        last: Float32 = logits[-1]
        return last

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab]."""
        self._reserve(len(ids))
        for start in range(0, len(ids), LOGIT_ROWS):
            part = ids[start : start + LOGIT_ROWS]
            yield self._prompt(part, len(part))

    def _step(self, token: int) -> Float32:
        if not self._stepping:
            self._bind(self._layout.input_ids, self._token)
            if self._layout.position_ids:
                self._bind(self._layout.position_ids, self._position)
            self._set_last(1)
            self._bind_output(self._logits)
            self._stepping = True
        self._token[0, 0] = token
        self._position[0, 0] = self._length
        self._run(1)
        logits: Float32 = self._row.astype(np.float32, copy=False)
        return logits

    def _prompt(self, ids: Sequence[int], rows: int) -> Float32:
        """Run several tokens; logits float32 [rows, vocab] of the last `rows` of them."""
        self._stepping = False
        tokens = np.asarray(ids, np.int64)[None]
        logits = np.empty((1, rows, self._layout.vocabulary), self._layout.logits_dtype)
        positions = np.arange(self._length, self._length + len(ids), dtype=np.int64)[None]
        self._bind(self._layout.input_ids, tokens)
        if self._layout.position_ids:
            self._bind(self._layout.position_ids, positions)
        self._set_last(rows)
        self._bind_output(logits)
        self._run(len(ids))
        values: Float32 = logits[0].astype(np.float32, copy=False)
        return values

    def _run(self, tokens: int) -> None:
        total = self._length + tokens
        # The mask's length is what tells the graph how long the past is: a prefix of ones.
        self._binding.bind_input(
            self._layout.attention_mask, "cpu", 0, np.int64, (1, total), self._ones_address
        )
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # its classes share no base but Exception
            raise EdgecompileError("onnxruntime", f"{error} at token {total}") from error
        self._length = total

    def _set_last(self, rows: int) -> None:
        if self._layout.last_tokens:
            self._last[0] = rows

    def _reserve(self, tokens: int) -> None:
        """Grow the cache to hold `tokens` more."""
        wanted = capacity_for(self._length, tokens, self._capacity, self._layout.context_length)
        if wanted > self._capacity:
            self._grow(wanted)

    def _grow(self, capacity: int) -> None:
        layout = self._layout
        shape = (1, layout.kv_heads, capacity, layout.head_size)
        old, kept = self._caches, self._length
        self._caches = [np.zeros(shape, layout.kv_dtype) for _ in layout.caches]
        for before, after, (past, present) in zip(
            old or self._caches, self._caches, layout.caches, strict=True
        ):
            if kept:
                after[:, :, :kept] = before[:, :, :kept]
            self._bind(past, after)
            self._binding.bind_output(
                present, "cpu", 0, layout.kv_dtype.type, shape, after.ctypes.data
            )
        self._ones = np.ones((1, capacity), np.int64)
        self._ones_address = self._ones.ctypes.data
        self._capacity = capacity

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        self._binding.bind_input(
            name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
        )

    def _bind_output(self, array: NDArray[Any]) -> None:
        self._bound = array  # the binding holds an address only
        self._binding.bind_output(
            self._layout.logits, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
        )
