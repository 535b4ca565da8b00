"""The order of q and k rows: transformers rotates halves of a head, llama.cpp neighbours."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def interleaved(rows: int, heads: int) -> NDArray[np.int64]:
    """Row numbers of a source q or k in llama.cpp's order: a rotated pair is side by side."""
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)


def restored(rows: int, heads: int) -> NDArray[np.int64]:
    """Row numbers that undo `interleaved`."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
