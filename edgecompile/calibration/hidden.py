"""Activations between blocks, in a file."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Hidden:
    """Activations float32 between blocks, one array a batch, in a file."""

    def __init__(self, file: Path, shapes: Sequence[tuple[int, ...]]) -> None:
        sizes = [int(np.prod(shape)) for shape in shapes]
        _reserve(file, 4 * max(1, sum(sizes)))
        self._data = np.memmap(file, np.float32, "r+", shape=(max(1, sum(sizes)),))
        self._ends = np.cumsum([0, *sizes])
        self._shapes = list(shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Tensor:
        """One batch's activations; a copy."""
        part = self._data[self._ends[index] : self._ends[index + 1]]
        return torch.from_numpy(part.reshape(self._shapes[index]).copy())

    def __setitem__(self, index: int, value: Tensor) -> None:
        self._data[self._ends[index] : self._ends[index + 1]] = value.reshape(-1).numpy()


def _reserve(file: Path, size: int) -> None:
    """Make a file of so many bytes; a mapped page that the disk has no room for would be fatal."""
    with file.open("wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
