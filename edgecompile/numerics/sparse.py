"""Which weights of a matrix become zeros, and what those that stay take over of them.

A layer y = x W^T with inputs X [tokens, in] loses sum over rows of (w - q) H (w - q)^T, with
H = X^T X, when W [out, in] becomes Q. Wanda (Sun et al. 2023) picks weights by |w| |x|; SparseGPT
(Frantar and Alistarh 2023) also lets the columns that follow take over what goes, as in GPTQ.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from edgecompile.numerics.gptq import inverse_factor


@dataclass(frozen=True)
class Pattern:
    """Either a `share` of zeros, or at most `kept` of each `of` neighbours in a row are not 0."""

    share: float
    kept: int = 0
    of: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """2:4, say; ValueError that shows the value where that means nothing."""
        found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
        kept, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < kept < of:
            raise ValueError(f"{text!r} is not N:M with N below M, as 2:4")
        return cls(1 - kept / of, kept, of)

    @property
    def name(self) -> str:
        """2:4, or 50 %."""
        return f"{self.kept}:{self.of}" if self.of else f"{self.share:.0%}".replace("%", " %")

    def lowest(self, scores: Tensor) -> Tensor:
        """bool [out, in]: in each row, or each group of a row, the weights that score least.

        The first of equal ones go.
        """
        rows, columns = scores.shape
        size = self.of or columns
        count = self.of - self.kept if self.of else round(self.share * columns)
        grouped = scores.reshape(rows, columns // size, size)
        order = torch.argsort(grouped, dim=2, stable=True)[:, :, :count]
        gone = torch.zeros(grouped.shape, dtype=torch.bool).scatter_(2, order, True)
        return gone.view(rows, columns)

    def lowest_of_all(self, scores: Tensor) -> Tensor:
        """The same where the share is of the whole table, not of each row."""
        if self.of:
            return self.lowest(scores)
        line = scores.flatten()
        order = torch.argsort(line, stable=True)[: round(self.share * len(line))]
        gone = torch.zeros(len(line), dtype=torch.bool)
        gone[order] = True
        return gone.view(scores.shape)


def magnitude(weight: Tensor, pattern: Pattern) -> Tensor:
    """The weight [out, in] without its smallest values: what needs no text, to compare with."""
    return weight.masked_fill(pattern.lowest(weight.abs()), 0)


def wanda(weight: Tensor, hessian: Tensor, pattern: Pattern) -> Tensor:
    """The weight [out, in] without what scores least in |W| |X|_2, row by row (Wanda, eq. 1).

    H float32 [in, in] is the mean of x^T x over tokens: its diagonal has the squares of |X|_2.
    """
    norms = hessian.diagonal().clamp(min=0).sqrt()
    return weight.masked_fill(pattern.lowest(weight.abs() * norms), 0)


def sparsegpt(
    weight: Tensor, hessian: Tensor, pattern: Pattern, damping: float, block: int
) -> tuple[Tensor, float]:
    """The weight [out, in] pruned column after column, and the damping that was needed.

    SparseGPT, algorithm 1: in each `block` of columns the weights with the least w^2 / U_jj^2 go (U
    the upper Cholesky factor of H^-1), N:M groups when their first column is reached; the columns
    after each take over its error. ValueError where H has no factor.
    """
    columns = weight.shape[1]
    factor, damping = inverse_factor(hessian, damping, torch.arange(columns))
    worth = factor.diagonal().square().reciprocal()
    worth = torch.where(hessian.diagonal() > 0, worth, torch.zeros(()))  # no input: goes first
    rest = weight.T.contiguous()  # a column of the weight is contiguous here
    step = block if not pattern.of else -(-block // pattern.of) * pattern.of
    for start in range(0, columns, step):
        end = min(start + step, columns)
        errors = _prune_block(rest[start:end], factor[start:end, start:end],
                              worth[start:end], pattern)  # fmt: skip
        rest[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return rest.T.contiguous(), damping


def _prune_block(rest: Tensor, factor: Tensor, worth: Tensor, pattern: Pattern) -> Tensor:
    """Prune columns rest [columns, out] in place; their errors over the pivots, alike."""
    errors = torch.empty_like(rest)
    size = pattern.of or len(rest)
    for j in range(len(rest)):
        if j % size == 0:
            part = slice(j, j + size)
            scores = (rest[part].square() * worth[part, None]).T.contiguous()
            gone = pattern.lowest_of_all(scores).T
        lost = torch.where(gone[j % size], rest[j], 0)
        rest[j] -= lost
        errors[j] = lost / factor[j, j]
        rest[j + 1 :].addr_(factor[j, j + 1 :], errors[j], alpha=-1)
    return errors


def output_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """|X (W - Q)^T| / |X W^T|, Frobenius norms."""
    lost, norm = (float(((w @ hessian) * w).sum()) for w in (weight - pruned, weight))
    return math.sqrt(max(lost, 0.0) / max(norm, 1e-30))
