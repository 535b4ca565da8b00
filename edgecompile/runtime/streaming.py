"""From token ids to text pieces that never split a character and never show a stop string."""
from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_CONTEXT = 8  # tokens kept so that a decoder that looks back (spaces, byte runs) sees its past
_LONGEST = 64  # tokens after which text that never becomes valid is let out as it is


class TextStream:
    """Turns ids into text one at a time: joined, the pieces are `decode` of all the ids."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._sent = ""  # what of decode(self._ids) has been given out

    def push(self, token: int) -> str:
        """The text that this token completes; empty inside a character of several tokens."""
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = text if len(self._ids) > _LONGEST else text.rstrip(_REPLACEMENT)
        piece = self._take(whole)
        if len(self._ids) > 2 * _CONTEXT and whole == text:
            self._ids = self._ids[-_CONTEXT:]
            self._sent = self._decode(self._ids)
        return piece

    def flush(self) -> str:
        """What is left at the end: bytes that never became a character, as U+FFFD."""
        return self._take(self._decode(self._ids))

    def _take(self, text: str) -> str:
        piece = text[len(self._sent) :]
        if piece:
            self._sent = text
        return piece


class StopStrings:
    """Holds text back while it may be the start of a stop string, wherever pieces are cut."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that is safe to show; `found` is set when a stop string was met."""
        text = self._held + piece
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once nothing more can follow."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
