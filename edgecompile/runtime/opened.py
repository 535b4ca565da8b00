"""An opened bundle: its manifest, its tokenizer and its engine, for as long as it is open."""
from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .chat import ChatTemplate
from .engine import Engine, open_engine
from .errors import UsageError
from .manifest import GENERATING, Manifest, read_manifest
from .tokens import Tokens
from .verify import verify as verify_files


class Opened:
    """What every task needs; a closed one raises UsageError at each call."""

    def __init__(self, bundle: Path, verify: str, threads: int, provider: str = "") -> None:
        start = time.perf_counter()
        self._bundle = bundle
        self.info: Manifest = read_manifest(bundle)
        self.threads = threads
        verify_files(bundle, self.info, verify, threads)
        self._tokens = _open_tokens(bundle, self.info)
        self._template = _open_template(bundle, self.info)
        pad_id = self._tokens.pad_id if self._tokens else 0
        self._opened: Engine | None = open_engine(
            bundle, self.info, threads, pad_id, provider
        )
        self.engine_version = self._opened.version
        # What computes, where the engine says: provider, name, software, ...
        self.device: dict[str, Any] = dict(getattr(self._opened, "device", {}))
        self.load_seconds = time.perf_counter() - start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine; a call that is under way ends first, later ones raise UsageError."""
        engine, self._opened = self._opened, None
        if engine is not None:
            engine.close()

    @property
    def has_template(self) -> bool:
        """Whether `generate` takes messages."""
        return self._template is not None

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as the model sees it, special tokens included."""
        return self._need_tokens().encode(checked_texts(texts))

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The engine's raw outputs by name for its raw inputs by name."""
        return self._need().run({name: np.asarray(array) for name, array in arrays.items()})

    def _need(self, *tasks: str) -> Engine:
        if self._opened is None:
            raise UsageError(f"session of {self.info.name}", "it is closed", "an open session")
        if tasks and self.info.task not in tasks:
            found, expected = f"task {self.info.task}", " or ".join(tasks)
            raise UsageError(f"session of {self.info.name}", found, expected)
        return self._opened

    def _need_tokens(self) -> Tokens:
        self._need()
        if self._tokens is None:
            raise UsageError(f"session of {self.info.name}", "no tokenizer", "use run(**arrays)")
        return self._tokens


def _open_tokens(bundle: Path, info: Manifest) -> Tokens | None:
    if info.tokenizer is None:
        return None
    # Encoders cut long texts as their source does; a prompt that does not fit is refused, not cut.
    limit = 0 if info.task in GENERATING else info.tokenizer.max_length
    return Tokens(bundle / info.tokenizer.file, limit)


def _open_template(bundle: Path, info: Manifest) -> ChatTemplate | None:
    if info.tokenizer is None or info.tokenizer.template is None:
        return None
    files = (info.tokenizer.template, info.tokenizer.tool_template)
    sources = ((bundle / file).read_text(encoding="utf-8") if file else "" for file in files)
    source, tool_source = sources
    return ChatTemplate(source, info.tokenizer.special_tokens, tool_source)


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """The texts; UsageError for one text, or for what is no text."""
    if isinstance(texts, str) or any(not isinstance(text, str) for text in texts):
        raise UsageError("texts", f"{texts!r:.100}", "a list of strings")
    return texts
