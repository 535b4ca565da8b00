"""What a session hears, apart from how: importing the runtime takes this alone."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A piece of speech, from `start` to `end` seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What was said; `language` as asked for or found out, None for a model of English alone."""

    text: str
    language: str | None
    segments: tuple[Segment, ...]
