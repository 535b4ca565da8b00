"""A stateful decoder graph's loop: the engine keeps keys and values, a request has one past."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .engine import LOGIT_ROWS, Float32
from .errors import EdgecompileError, UsageError

if TYPE_CHECKING:
    from openvino import InferRequest

PROMPT_CHUNK = 512  # tokens a call


class OpenvinoDecoder:
    """One past: an infer request whose state is the KV cache."""

    def __init__(self, request: InferRequest, vocabulary: int, context: int) -> None:
        self._request, self._vocabulary, self._context = request, vocabulary, context
        self._length = 0

    def fits(self, size: int) -> bool:
        """Always: the cache grows."""
        return True

    def close(self) -> None:
        """Python frees the request."""

    def reset(self) -> None:
        """Forget the past."""
        self._request.reset_state()
        self._length = 0

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last, valid until the next call."""
        self._check(ids)
        for start in range(0, len(ids), PROMPT_CHUNK):
            logits = self._run(ids[start : start + PROMPT_CHUNK], 1)
        last: Float32 = logits[-1]
        return last

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab]."""
        self._check(ids)
        for start in range(0, len(ids), LOGIT_ROWS):
            part = ids[start : start + LOGIT_ROWS]
            yield self._run(part, len(part))

    def _check(self, ids: Sequence[int]) -> None:
        """Beyond its tables the engine would read zeros, silently."""
        if not ids or max(ids) >= self._vocabulary:
            raise UsageError("token ids", f"{list(ids[:9])}", f"1 or more below {self._vocabulary}")
        if (wanted := self._length + len(ids)) > self._context:
            limit = f"1 to {self._context} (the model's context)"
            raise UsageError("tokens", f"{wanted} with those before", limit)

    def _run(self, ids: Sequence[int], rows: int) -> Float32:
        """Append tokens; logits float32 [rows, vocab] of the last `rows` of them."""
        count, total = len(ids), self._length + len(ids)
        arrays = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._length, total, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
            "last_tokens": np.array([rows], np.int64),
        }
        try:
            found = self._request.infer(arrays, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EdgecompileError("openvino", f"{error} for {count} tokens") from error
        self._length = total
        logits: Float32 = found["logits"][0]
        return logits
