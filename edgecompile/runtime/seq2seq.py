"""An encoder-decoder's loop: the source is encoded once, then a token a call, in every engine."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .engine import LOGIT_ROWS, Decoder, Float32
from .errors import BadInputError, UsageError
from .manifest import Manifest

FIRST_CAPACITY = 64  # tokens
FEATURES = "input_features"  # the input of a window of sound


class Graphs(Protocol):
    """The two graphs in an engine; arrays in the order of the manifest's ports."""

    def encode(self, source: NDArray[Any]) -> Any:
        """What the decoder attends to, [2 layers, heads, source, size].

        `source` are ids int64 [1, source], or a window of sound float32 [1, mels, frames].
        """
        ...

    def decode(self, ids: NDArray[np.int64], past: Float32, cross: Any) -> tuple[Float32, Float32]:
        """Logits [1, n, vocabulary] and keys and values [n, 2 layers, heads, size] of ids [1, n].

        Both are valid until the next call; `past` [1 + before, ...] begins with a row of zeros.
        """
        ...


@dataclass(frozen=True)
class Layout:
    """Sizes of the graphs' arrays, from the manifest's ports."""

    row: tuple[int, int, int]  # 2 layers, heads, size: keys and values of a token
    vocabulary: int
    context_length: int  # tokens of a source, and of an answer
    sound: tuple[int, int] | None = None  # mels and frames of a source that is no text

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Layout:
        """Checked: they become sizes of memory."""
        try:
            named = {p["name"]: p["shape"] for p in manifest.data["inputs"]}
            outputs = {p["name"]: p["shape"] for p in manifest.data["outputs"]}
            layers, heads, size = named["past"][1:]
            sizes = [layers, heads, size, outputs["logits"][-1]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            expected = "ports past and logits as docs/bundle-format.md has them"
            raise BadInputError("manifest: inputs, outputs", repr(error), expected) from error
        if any(type(one) is not int or not 0 < one < 1 << 24 for one in sizes):
            raise BadInputError("manifest: inputs, outputs", f"sizes {sizes}", "whole numbers")
        if manifest.generation is None or manifest.generation.start_token_id is None:
            raise BadInputError("manifest: generation", "no start_token_id", "one for this task")
        sound = _sound(named.get(FEATURES))
        context = manifest.generation.context_length
        return cls((layers, heads, size), sizes[3], context, sound)


def _sound(shape: Any) -> tuple[int, int] | None:
    if shape is None:
        return None
    sizes = shape[1:] if isinstance(shape, list | tuple) else []
    if len(sizes) != 2 or any(type(one) is not int or not 0 < one < 1 << 20 for one in sizes):
        raise BadInputError("manifest: inputs", f"{FEATURES} {shape!r:.100}", "[1, mels, frames]")
    return sizes[0], sizes[1]


class Seq2SeqDecoder:
    """One source and the answer so far; keys and values lie in one buffer, grown by doubling."""

    def __init__(self, graphs: Graphs, layout: Layout) -> None:
        self._graphs, self._layout = graphs, layout
        self._cross: Any = None
        self._length = 0
        self._buffer = np.zeros((1 + FIRST_CAPACITY, *layout.row), np.float32)

    def fits(self, size: int) -> bool:
        """Always: the buffer grows."""
        return True

    def close(self) -> None:
        """Python frees what there is."""

    def reset(self) -> None:
        """Forget the source and the answer."""
        self._cross, self._length = None, 0

    def restart(self) -> None:
        """Forget the answer, not the source."""
        self._length = 0

    def begin(self, source: Sequence[int] | Float32) -> None:
        """Encode a source: 1 to `context_length` tokens, or sound; the answer begins anew."""
        if self._layout.sound is not None:
            given = self._checked_sound(source)
        else:
            self._check(source, len(source))  # type: ignore[arg-type]
            given = np.array([source], np.int64)
        self._cross, self._length = self._graphs.encode(given), 0

    def _checked_sound(self, source: Any) -> Float32:
        """As [1, mels, frames]."""
        shape = getattr(source, "shape", None)
        if shape != self._layout.sound or source.dtype != np.float32:
            found = f"{getattr(source, 'dtype', type(source).__name__)} {shape}"
            raise UsageError("sound", found, f"float32 {self._layout.sound}, from `features`")
        given: Float32 = np.ascontiguousarray(source[None])
        return given

    def feed(self, ids: Sequence[int]) -> Float32:
        """Append tokens; logits float32 [vocab] after the last, valid until the next call."""
        for logits in self.feed_all(ids):
            last: Float32 = logits[-1]
        return last

    def feed_all(self, ids: Sequence[int]) -> Iterator[Float32]:
        """Append tokens; logits after each as chunks [<=128, vocab]."""
        if self._cross is None:
            raise UsageError("decoder", "no source", "begin(source) first")
        self._check(ids, self._length + len(ids))
        for start in range(0, len(ids), LOGIT_ROWS):
            yield self._run(ids[start : start + LOGIT_ROWS])

    def _run(self, ids: Sequence[int]) -> Float32:
        before, after = 1 + self._length, 1 + self._length + len(ids)
        self._reserve(after)
        past = self._buffer[:before]
        logits, present = self._graphs.decode(np.array([ids], np.int64), past, self._cross)
        self._buffer[before:after] = present
        self._length += len(ids)
        rows: Float32 = logits[0]
        return rows

    def _reserve(self, rows: int) -> None:
        if rows > len(self._buffer):
            grown = np.zeros((max(rows, 2 * len(self._buffer)), *self._layout.row), np.float32)
            grown[: len(self._buffer)] = self._buffer
            self._buffer = grown

    def _check(self, ids: Sequence[int], total: int) -> None:
        """Engines end the process over a token out of range, or read zeros."""
        longest, size = self._layout.context_length, self._layout.vocabulary
        if not ids or total > longest:
            raise UsageError("tokens", f"{total}", f"1 to {longest} (the model's context)")
        if min(ids) < 0 or max(ids) >= size:
            raise UsageError("token ids", f"{min(ids)} to {max(ids)}", f"0 to {size - 1}")


def begin(decoder: Decoder, source: Sequence[int] | Float32) -> None:
    """Give a decoder its source."""
    if not isinstance(decoder, Seq2SeqDecoder):
        raise UsageError("source", "a decoder without an encoder", "an encoder-decoder's task")
    decoder.begin(source)
