"""Logits in a file, where two comparisons read them: a window of 512 may take 500 MB."""
from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import cache
from edgecompile.numerics.schemes import Float32

ROWS = 64  # logits at a time: 64 x 32,000 x 4 bytes are 8 MB


class StoredLogits:
    """Logits float32 [tokens, vocabulary] of windows by key, one after the other in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._windows: dict[Hashable, tuple[int, int, int]] = {}  # first byte, rows, vocabulary

    def __contains__(self, key: Hashable) -> bool:
        return key in self._windows

    def add(self, key: Hashable, chunks: Iterable[Float32]) -> None:
        """One window's logits, in pieces [rows, vocabulary]."""
        for _ in self.passing(key, chunks):
            pass

    def passing(self, key: Hashable, chunks: Iterable[Float32]) -> Iterator[Float32]:
        """The same pieces, written as they go by; known under `key` once all have gone."""
        rows = width = 0
        with self._file.open("ab") as out:
            start = out.tell()
            for chunk in chunks:
                out.write(np.ascontiguousarray(chunk, np.float32).data)
                rows, width = rows + len(chunk), chunk.shape[1]
                yield chunk
        self._windows[key] = (start, rows, width)

    def read(self, key: Hashable) -> Iterator[Float32]:
        """A window's logits in pieces of at most ROWS rows."""
        start, rows, width = self._windows[key]
        for row in range(0, rows, ROWS):
            count, offset = min(ROWS, rows - row), start + 4 * row * width
            piece = np.fromfile(self._file, np.float32, count * width, offset=offset)
            yield piece.reshape(count, width)


def store_of(memo: dict[str, Any], name: str) -> StoredLogits:
    """The file of logits of that name, which lives until the comparison of the memo is closed."""
    if "folder" not in memo:
        parent = cache.folder() / "checks"
        parent.mkdir(parents=True, exist_ok=True)
        memo["folder"] = tempfile.TemporaryDirectory(dir=parent)
    stores: dict[str, StoredLogits] = memo.setdefault("stores", {})
    file = Path(memo["folder"].name) / f"{len(stores)}"
    return stores.setdefault(name, StoredLogits(file))
