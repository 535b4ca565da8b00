"""Augmentation of training text: seeded, each method switchable, all off unless asked for.

A method is a frozen dataclass called with (text, random generator, kept words) -> text. For data
with one label a text; tags of words would no longer fit.
"""
from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from edgecompile.config import Table, make
from edgecompile.errors import UsageError
from edgecompile.train.augment.case import Case
from edgecompile.train.augment.characters import Characters
from edgecompile.train.augment.kept import Keep
from edgecompile.train.augment.punctuation import Punctuation
from edgecompile.train.augment.spans import Spans
from edgecompile.train.augment.synonyms import Synonyms
from edgecompile.train.augment.syntax import Syntax
from edgecompile.train.augment.templates import Templates
from edgecompile.train.augment.words import Words

# In the order in which they run: rules of grammar first, while the text is as it was written.
METHODS: Mapping[str, type[Any]] = {
    "syntax": Syntax, "templates": Templates, "synonyms": Synonyms, "spans": Spans, "words": Words,
    "punctuation": Punctuation, "case": Case, "characters": Characters,
}  # fmt: skip


@dataclass(frozen=True)
class Augment:
    """The methods asked for, one after the other; `kept` is what `fitted` found in the data."""

    seed: int = 0
    keep: Keep = field(default_factory=Keep)
    syntax: Syntax | None = None
    templates: Templates | None = None
    synonyms: Synonyms | None = None
    spans: Spans | None = None
    words: Words | None = None
    punctuation: Punctuation | None = None
    case: Case | None = None
    characters: Characters | None = None
    kept: frozenset[str] | None = None

    @classmethod
    def from_table(cls, table: Table, where: str = "[augment]") -> Self:
        """From TOML: a table a method (its options, may be empty), or true or false."""
        kinds = {**METHODS, "keep": Keep}
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name == "kept":  # found in the data, never given
                raise UsageError(where, "'kept'", "words to keep in [augment.keep] words")
            if name in METHODS and isinstance(value, bool):
                value = {} if value else None
            if name in kinds and isinstance(value, Mapping):
                value = make(kinds[name], value, f"{where} {name}")
            values[name] = value
        return make(cls, values, where)

    @property
    def methods(self) -> dict[str, Any]:
        """What is switched on, by name, in its order."""
        return {name: one for name in METHODS if (one := getattr(self, name)) is not None}

    def fitted(self, rows: Iterable[tuple[str, str]]) -> Self:
        """The same with the words to keep found in training rows (text, label)."""
        return replace(self, kept=self.keep.of(rows))

    def __call__(self, text: str, index: int) -> str:
        """The text's variant number `index`: it depends on seed, index, text and options alone.

        Each method has a generator of its own, so switching one off leaves the others' choices.
        """
        kept = self.keep.given if self.kept is None else self.kept
        source = text.encode("utf-8", "surrogatepass")
        for name, method in self.methods.items():
            key = zlib.crc32(source), zlib.crc32(name.encode())
            text = method(text, np.random.default_rng([self.seed, index, *key]), kept)
        return text
