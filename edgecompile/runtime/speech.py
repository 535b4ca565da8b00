"""What a Whisper's tokens mean: languages, tasks, timestamps, and what may not be said.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), 2.3,
and the files generation_config.json and tokenizer.json of a checkpoint.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UsageError
from .sections import Section

KEYS = (
    "languages", "tasks", "no_timestamps_id", "timestamps", "timestamp_seconds",
    "max_initial_timestamp", "suppress", "begin_suppress", "previous_id", "no_speech_id",
)  # fmt: skip
HIGHEST = 1 << 31  # of a token's id
TRANSCRIBE = "transcribe"


@dataclass(frozen=True)
class SpeechTokens:
    """Token ids by meaning; `languages` is empty for a model of English alone.

    Timestamp tokens stand for multiples of `timestamp_seconds` from the window's beginning and
    follow `no_timestamps_id`, `timestamps` of them; 0: the model has none.
    """

    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    no_timestamps_id: int | None
    timestamps: int
    timestamp_seconds: float
    max_initial_timestamp: int | None
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    previous_id: int | None  # before the text of a prompt
    no_speech_id: int | None

    @classmethod
    def from_manifest(cls, data: object, where: str = "manifest.json: speech") -> SpeechTokens:
        """Check an untrusted section; BadInputError (exit 5) says what is wrong where."""
        section = Section(data, KEYS, where)
        return cls(
            _table(section, "languages"), _table(section, "tasks"),
            _token(section, "no_timestamps_id"), section.integer("timestamps", 0, 1 << 16),
            section.number("timestamp_seconds", 1e-4, 60.0),
            _token(section, "max_initial_timestamp"), _tokens(section, "suppress"),
            _tokens(section, "begin_suppress"), _token(section, "previous_id"),
            _token(section, "no_speech_id"),
        )  # fmt: skip

    def as_manifest(self) -> dict[str, Any]:
        """The section that `from_manifest` reads."""
        found = {key: getattr(self, key) for key in KEYS}
        return found | {
            "languages": dict(self.languages), "tasks": dict(self.tasks),
            "suppress": list(self.suppress), "begin_suppress": list(self.begin_suppress),
        }  # fmt: skip

    @property
    def first_timestamp(self) -> int:
        """The token of 0 seconds; beyond all tokens where there are no timestamps."""
        if self.no_timestamps_id is None or not self.timestamps:
            return HIGHEST
        return self.no_timestamps_id + 1

    def language(self, asked: str | None) -> int | None:
        """The token of a language named as `en` or `<|en|>`; None where it is to be found out."""
        if asked is None:
            return None
        name = asked.strip().lower().removeprefix("<|").removesuffix("|>")
        if not self.languages:
            if name == "en":
                return None
            raise UsageError("language", repr(asked), "en: this model knows English alone")
        if name not in self.languages:
            known = ", ".join(self.languages)
            raise UsageError("language", repr(asked), f"one of {known}")
        return self.languages[name]

    def beginning(self, language: int | None, task: str, timed: bool) -> list[int]:
        """What follows the start token: language and task, unless English is all there is."""
        if not self.languages:
            if task != TRANSCRIBE:
                expected = f"{TRANSCRIBE}: this model knows English alone"
                raise UsageError("task", repr(task), expected)
            found = []
        elif task not in self.tasks:
            raise UsageError("task", repr(task), f"one of {', '.join(self.tasks)}")
        else:
            found = [self.tasks[task]] if language is None else [language, self.tasks[task]]
        silent = self.no_timestamps_id is not None and not timed
        return [*found, self.no_timestamps_id] if silent else found  # type: ignore[list-item]


def _table(section: Section, key: str) -> dict[str, int]:
    table = section.data.get(key)
    if not isinstance(table, Mapping):
        section.bad(key, "an object of token ids")
    inner = Section(table, list(table), f"{section.where}: {key}")
    return {str(name): inner.integer(name, 0, HIGHEST) for name in table}


def _tokens(section: Section, key: str) -> tuple[int, ...]:
    values = section.data.get(key)
    if not isinstance(values, list | tuple) or len(values) > 1 << 20:
        section.bad(key, "a list of token ids")
    if any(type(one) is not int or not 0 <= one <= HIGHEST for one in values):
        section.bad(key, "token ids")
    return tuple(values)


def _token(section: Section, key: str) -> int | None:
    return None if section.data.get(key) is None else section.integer(key, 0, HIGHEST)
