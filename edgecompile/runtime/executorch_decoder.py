"""A decoder method's loop: its KV cache is of fixed length, in the method's own memory."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .engine import LOGIT_ROWS, Float32
from .errors import BadInputError, EdgecompileError, UsageError
from .manifest import Manifest


class ExecutorchDecoder:
    """One past. forward(input_ids [1, n], start [1], first [1]) int64 -> logits [1, n - first, v].

    `start` is the position of the first token, `first` the first row whose logits are wanted.
    """

    def __init__(self, method: Any, manifest: Manifest) -> None:
        import torch

        self._method, self._torch = method, torch
        options = manifest.engine.options
        try:
            self._context = int(options["context_length"])
            self._prompt = int(options["prompt_tokens"])
            self._rows = min(LOGIT_ROWS, int(options["logit_rows"]))
            self._vocabulary = int(manifest.data["outputs"][0]["shape"][-1])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            where = f"{manifest.engine.file}: engine.options"
            raise BadInputError(where, repr(error), "what docs/bundle-format.md lists") from error
        self._length = 0
        arrays = [np.zeros((1, 1), np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)]
        self._token, self._start, self._first = arrays
        self._step = [torch.from_numpy(array) for array in arrays]  # the same memory

    def fits(self, size: int) -> bool:
        """Whether so many tokens have room."""
        return size <= self._context

    def reset(self) -> None:
        """Forget the past: positions are written before they are read."""
        self._length = 0

    def close(self) -> None:
        """Python frees the method."""

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last, valid until the next call."""
        self._check(ids)
        for start in range(0, len(ids), self._prompt):
            part = ids[start : start + self._prompt]
            logits = self._run(part, 1)
        last: Float32 = logits[-1]
        return last

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab]."""
        self._check(ids)
        for start in range(0, len(ids), self._rows):
            part = ids[start : start + self._rows]
            yield self._run(part, len(part))

    def _run(self, ids: Sequence[int], rows: int) -> Float32:
        """Append tokens; logits float32 [rows, vocab] of the last `rows` of them."""
        self._start[0], self._first[0] = self._length, len(ids) - rows
        inputs = self._step
        if len(ids) == 1:
            self._token[0, 0] = ids[0]
        else:
            inputs = [self._torch.tensor([list(ids)], dtype=self._torch.int64), *self._step[1:]]
        try:
            logits: Float32 = self._method(inputs, False)[0].numpy()[0]
        except RuntimeError as error:
            found = f"{error} for {len(ids)} tokens after {self._length}"
            raise EdgecompileError("executorch", found) from error
        self._length += len(ids)
        return logits

    def _check(self, ids: Sequence[int]) -> None:
        """Its kernels end the process over a token or a position out of range."""
        wanted = self._length + len(ids)
        if not ids or wanted > self._context:
            limit = f"1 to {self._context} (the context in the file)"
            raise UsageError("tokens", f"{wanted} with those before", limit)
        if max(ids) >= self._vocabulary or min(ids) < 0:
            limit = f"0 to {self._vocabulary - 1}"
            raise UsageError("token ids", f"{min(ids)} to {max(ids)}", limit)
