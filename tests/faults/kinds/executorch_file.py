"""Faults of a .pte file for ExecuTorch: constants that XNNPACK's subgraphs find by key."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.faults.edits import named_data
from tests.faults.planting import fault
from tests.faults.twins import Clean, Twin

ENCODER = Twin("encoder", "executorch", "rtn", 8)
JOINED = [f"encoder.layer.0.attention.self.{part}" for part in ("query", "key", "value")]
OUTPUT = "encoder.layer.1.output.dense.weight"
HEAD, WIDTH = 16, 64  # rows of a head, columns of a matrix


@fault("scale of one row", "executorch", ENCODER, "sealed", slow=True,
       ladder=(4, 2, 1.5, 1.2, 1.1, 1.05), at=1.1, unit="times")  # fmt: skip
def one_row(folder: Path, _: Clean, magnitude: float) -> None:
    """The file's scale of one row is too large."""

    def change(scales: np.ndarray) -> None:
        scales[3] *= magnitude

    named_data(folder, f"{OUTPUT}.scales", "f4", change)


@fault("heads swapped", "executorch", ENCODER, "sealed", slow=True)
def heads_swapped(folder: Path, _: Clean, __: float) -> None:
    """The queries of the first head and of the third change places: codes, scales and biases."""
    weights = "|".join(f"{name}.weight" for name in JOINED)
    named_data(folder, f"{weights}.codes", "i1", lambda values: swap(values, WIDTH))
    named_data(folder, f"{weights}.scales", "f4", lambda values: swap(values, 1))
    biases = "|".join(f"{name}.bias" for name in JOINED)
    named_data(folder, biases, "f4", lambda values: swap(values, 1))


def swap(values: np.ndarray, width: int) -> None:
    """Rows of `width` of the first head, and of the third."""
    rows = values.reshape(-1, width)
    first, third = slice(0, HEAD), slice(2 * HEAD, 3 * HEAD)
    rows[first], rows[third] = rows[third].copy(), rows[first].copy()


@fault("attention scale", "executorch", ENCODER, "graph", slow=True,
       ladder=(2, 1.5, 1.2), at=1.2, unit="times")  # fmt: skip
def attention_scale(folder: Path, _: Clean, magnitude: float) -> None:
    """Scores of all layers are multiplied by a constant that is not the source's."""

    def change(factor: np.ndarray) -> None:
        factor *= magnitude

    named_data(folder, f"attention_scale.{HEAD}", "f4", change)
