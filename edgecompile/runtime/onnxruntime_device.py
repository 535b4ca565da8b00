"""A decoder graph on a GPU: the KV cache stays on the device, bound as past and present at once.

Only token ids and lengths go there, and logits come back. Some adapters compute a prompt wrongly
that comes in one call (docs/gpu.md): a probe finds out at load, and the prompt goes in steps.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .engine import LOGIT_ROWS, Float32
from .errors import BadInputError, UnsupportedError
from .manifest import Manifest
from .onnxruntime_decoder import FIRST_CAPACITY, cache_names, capacity_for, logits_port

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True)
class DeviceLayout:
    """Names and sizes of the graph, from the manifest's engine.options and the graph itself."""

    caches: tuple[tuple[str, str], ...]  # (past, present) names, a pair a layer and part
    shape: tuple[int, int]  # heads of k and v, size of a head
    kv_dtype: np.dtype[Any]
    input_ids: str
    lengths: str  # int32 [1]: tokens with this call's, minus one
    total: str  # int32 []: tokens with this call's
    logits_start: str  # int64 [1]: -n, for logits of the last n positions
    logits: str
    logits_dtype: np.dtype[Any]
    vocabulary: int
    context_length: int
    position_ids: str = ""  # int64 [1, tokens]; empty when the graph has none

    @classmethod
    def from_manifest(cls, session: InferenceSession, manifest: Manifest) -> DeviceLayout:
        """Check that the options name what the graph has."""
        options, where = manifest.engine.options, f"{manifest.engine.file}: engine.options"
        if manifest.generation is None:
            raise BadInputError("manifest", "no generation section", "one for text-generation")
        try:
            names = [str(options[key]) for key in ("input_ids", *LENGTHS)]
            places = str(options.get("position_ids") or "")
            caches = cache_names(options)
            shape = int(options["kv_heads"]), int(options["head_size"])
            kv_dtype: np.dtype[Any] = np.dtype(options["kv_dtype"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(where, repr(error), "what docs/bundle-format.md lists") from error
        used = {*names, *(past for past, _ in caches)} | ({places} if places else set())
        graph = {port.name for port in session.get_inputs()}
        if used != graph:
            raise BadInputError(where, f"inputs {sorted(used ^ graph)[:4]}", "the graph's own")
        logits = str(options.get("logits", "logits"))
        dtype, vocabulary = logits_port(session, logits, where)
        context = manifest.generation.context_length
        return cls(
            caches, shape, kv_dtype, names[0], names[1], names[2], names[3], logits, dtype,
            vocabulary, context, places,
        )  # fmt: skip


LENGTHS = ("seqlens_k", "total_sequence_length", "logits_start")


class DeviceDecoder:
    """One past on the device; `step` is the most tokens that a call takes at once."""

    def __init__(
        self, session: InferenceSession, layout: DeviceLayout, memory: str, step: int
    ) -> None:
        self._session, self._layout, self._memory, self._step = session, layout, memory, step
        self._binding = session.io_binding()
        self._length = 0
        self._capacity = 0
        self._held: list[Any] = []  # one value on the device a past, as long as it is bound
        self._grow(FIRST_CAPACITY)

    def fits(self, size: int) -> bool:
        """Always: the cache grows."""
        return True

    def close(self) -> None:
        """The device's memory goes with its values."""
        self._held = []

    def reset(self) -> None:
        """Forget the past; the buffers stay, but for one grown beyond the first size."""
        self._length = 0
        if self._capacity > 4 * FIRST_CAPACITY:
            self._held, self._capacity = [], 0
            self._grow(FIRST_CAPACITY)

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last."""
        self._reserve(len(ids))
        for start in range(0, len(ids), self._step):
            logits = self._run(ids[start : start + self._step], 1)
        last: Float32 = logits[-1]
        return last

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab]."""
        self._reserve(len(ids))
        size = min(self._step, LOGIT_ROWS)
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            yield self._run(part, len(part))

    def _run(self, ids: Sequence[int], rows: int) -> Float32:
        layout, binding, total = self._layout, self._binding, self._length + len(ids)
        given = (
            (layout.input_ids, np.asarray(ids, np.int64)[None]),
            (layout.lengths, np.array([total - 1], np.int32)),
            (layout.total, np.array(total, np.int32)),
            (layout.logits_start, np.array([-rows], np.int64)),
            (layout.position_ids, np.arange(self._length, total, dtype=np.int64)[None]),
        )
        for name, array in (one for one in given if one[0]):
            binding.bind_cpu_input(name, array)
        binding.bind_output(layout.logits, "cpu")  # else the last call's value, of its shape
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # its classes share no base but Exception
            raise UnsupportedError("onnxruntime", f"{error} at token {total}") from error
        values = binding.get_outputs()
        if not self._held:  # present is on the device now, with room: from here on past is present
            self._hold(values[1:])
        self._length = total
        logits: Float32 = values[0].numpy()[0].astype(np.float32, copy=False)
        return logits

    def _reserve(self, tokens: int) -> None:
        """Grow the cache to hold `tokens` more."""
        wanted = capacity_for(self._length, tokens, self._capacity, self._layout.context_length)
        if wanted > self._capacity:
            self._grow(wanted)

    def _grow(self, capacity: int) -> None:
        """A larger cache with what the old one holds, which passes through the CPU's memory."""
        heads, size = self._layout.shape
        kept = self._binding.copy_outputs_to_cpu()[1:] if self._length else []
        arrays = [
            np.zeros((1, heads, capacity, size), self._layout.kv_dtype) for _ in self._layout.caches
        ]
        for before, after in zip(kept, arrays, strict=False):
            after[:, :, : self._length] = before[:, :, : self._length]
        self._capacity, self._held = capacity, []
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._binding.bind_output(self._layout.logits, "cpu")
        if values := _on(self._memory, arrays):
            self._hold(values)
            return
        # That memory is the provider's alone to take: it does, for the first call's present.
        for (past, present), array in zip(self._layout.caches, arrays, strict=True):
            self._binding.bind_cpu_input(past, array)
            self._binding.bind_output(present, self._memory)

    def _hold(self, values: Sequence[Any]) -> None:
        self._held = list(values)
        for (past, present), value in zip(self._layout.caches, self._held, strict=True):
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)


def _on(memory: str, arrays: Sequence[NDArray[Any]]) -> list[Any]:
    """The arrays on the device; none where Python cannot put them there (WebGPU)."""
    from onnxruntime import OrtValue

    try:
        return [OrtValue.ortvalue_from_numpy(array, memory, 0) for array in arrays]
    except Exception:  # onnxruntime raises RuntimeError or its own; the other way says why
        return []
