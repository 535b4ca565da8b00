"""Second moments of a layer's inputs, summed over calibration tokens."""
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgecompile.numerics.parallel import pieces, run_all

BAND = 512  # rows of a product that one thread adds up

@dataclass
class Moments:
    """Sums over tokens of one layer input: x^T x of what quantized blocks give, tokens seen.

    `cross` is y^T x, where y is the same input in the source model.
    """

    size: int
    second: Tensor = field(init=False)
    cross: Tensor | None = None
    tokens: int = 0

    def __post_init__(self) -> None:
        self.second = torch.zeros(self.size, self.size)

    def mean(self) -> Tensor:
        """x^T x per token, float32 [in, in]."""
        return self.second / max(1, self.tokens)

    def add(self, rows: Tensor, source: Tensor | None = None) -> None:
        """Rows float32 [tokens, in]; `source` the same tokens in the source model."""
        self.tokens += len(rows)
        _add_product(self.second, rows, rows)
        if source is not None:
            if self.cross is None:
                self.cross = torch.zeros(self.size, self.size)
            _add_product(self.cross, source, rows)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left^T right, a band of rows a thread."""

    def band(part: slice) -> None:
        total[part].addmm_(left[:, part].T, right)

    run_all(band, pieces(len(total), BAND))


def rows_of(value: Tensor, mask: Tensor | None) -> Tensor:
    """[tokens, in] of a layer's input, without padding where its shape is the mask's."""
    if mask is not None and value.dim() == 3 and value.shape[:2] == mask.shape:
        return value[mask].float()
    return value.reshape(-1, value.shape[-1]).float()
