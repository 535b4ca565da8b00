"""GPTQ on the shared grid: codes that lose least of a layer's output on calibration inputs.

A layer y = x W^T with inputs X [tokens, in] loses |X W^T - X Q^T|^2 = sum over rows of
(w - q) H (w - q)^T with H = X^T X, when W [out, in] becomes Q. Frantar et al. 2022 (GPTQ): round
column after column and let the columns that follow take over each column's error. Two steps refine
the result, neither of which can make the loss larger: coordinate descent over the codes (Behdin et
al. 2023, QuantEase, eq. 6) and the least-squares scale of every group for codes that stay.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgecompile.numerics.parallel import pieces, spread
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme, representable_scale

BLOCK = 32  # columns whose updates of the rest are gathered into one product (GPTQ, step 2)
ROWS = 2048  # rounded by one thread; fewer would wait for the interpreter more than they work
LARGEST_DAMPING = 1.0
SPARSE = 0.24  # share of exact zeros from which a weight was pruned; 4 bits leave about 0.12
CHUNK = 1 << 25  # elements of a temporary array in the fit of scales


@dataclass(frozen=True)
class Rounding:
    """How to round: share of H's mean diagonal added to it, column order, sweeps after GPTQ.

    `act_order` visits columns by falling H_jj; groups keep their columns, so the layout stays.
    `shrink` is the share that products of different columns lose: they are what differs most from
    text to text, so a Hessian shrunk towards its diagonal (Ledoit and Wolf 2004, with the diagonal
    as target) serves other text better, and here the same text as well (docs/quantization.md).
    """

    damping: float = 0.01
    act_order: bool = True
    sweeps: int = 0
    search: bool = True
    shrink: float = 0.2


@dataclass(frozen=True)
class Rounded:
    """Codes, the damping that was needed, the loss w H w^T lost, relative to the layer's output."""

    tensor: QuantizedTensor
    damping: float
    error: float
    nearest_error: float  # the same for rounding to nearest
    dead: int  # columns that no calibration input reaches


def gptq(weight: Tensor, hessian: Tensor, scheme: Scheme, how: Rounding) -> Rounded:
    """Round a weight float32 [out, in] given H float32 [in, in], the inputs' X^T X.

    Rows for which rounding to nearest loses less keep it. Raises ValueError where H is not finite.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the calibration inputs' products are not finite")
    diagonal = hessian.diagonal().clone()
    dead = diagonal <= 0
    importance = torch.where(dead, diagonal.mean().clamp(min=1e-30), diagonal)
    nearest = quantize(weight.numpy(), scheme, how.search, importance.numpy())
    order = _order(diagonal, how.act_order)
    target = shrunk(hessian, how.shrink)
    factor, damping = inverse_factor(target, how.damping, order)
    rounded = _Rows(weight, hessian, target, scheme, nearest, pruned_zeros(weight))
    done = list(spread(lambda rows: rounded.round(rows, order, factor, how.sweeps), rounded.parts))
    norm = max(sum(part.norm for part in done), 1e-30)
    before, after = (sum(getattr(p, side) for p in done) for side in ("before", "after"))
    tensor = QuantizedTensor(
        scheme, np.concatenate([p.codes for p in done]), np.concatenate([p.scales for p in done])
    )
    return Rounded(
        tensor, damping, (after / norm) ** 0.5, (before / norm) ** 0.5, int(dead.sum())
    )


@dataclass(frozen=True)
class _Part:
    """Some rows' codes and scales, their loss, that of rounding to nearest, their w H w^T."""

    codes: Int8
    scales: Float32
    after: float
    before: float
    norm: float


@dataclass(frozen=True)
class _Rows:
    """Rows of a weight are independent: some at a time, on a thread each.

    Codes are chosen for `target`, the shrunk Hessian; losses are those on the inputs as they were.
    """

    weight: Tensor
    hessian: Tensor
    target: Tensor
    scheme: Scheme
    nearest: QuantizedTensor
    zeros: Tensor | None  # of a pruned weight: their codes stay 0

    @property
    def parts(self) -> list[slice]:
        return pieces(len(self.weight), ROWS)

    def round(self, rows: slice, order: Tensor, factor: Tensor, sweeps: int) -> _Part:
        """GPTQ in `order`, refined; rows for which rounding to nearest loses less keep it."""
        weight, hessian, scheme = self.weight[rows], self.hessian, self.scheme
        size = weight.shape[1] // self.nearest.scales.shape[1]
        scales = torch.from_numpy(self.nearest.scales[rows]).repeat_interleave(size, dim=1)
        plain = torch.from_numpy(self.nearest.codes[rows]).to(torch.float32), scales
        codes = torch.empty_like(weight)
        zeros = None if self.zeros is None else self.zeros[rows]
        codes[:, order] = round_columns(
            weight[:, order], factor, scales[:, order], scheme,
            None if zeros is None else zeros[:, order],
        )  # fmt: skip
        found = refine(weight, self.target, (codes, scales), scheme, sweeps, zeros)
        losses = [row_losses(weight, hessian, *pair) for pair in (found, plain)]
        keep = (losses[1] < losses[0])[:, None]
        codes, scales = (torch.where(keep, b, a) for a, b in zip(found, plain, strict=True))
        return _Part(
            codes.to(torch.int8).numpy(), scales[:, ::size].contiguous().numpy(),
            float(torch.minimum(*losses).sum()), float(losses[1].sum()),
            float(row_losses(weight, hessian, torch.zeros_like(weight), scales).sum()),
        )  # fmt: skip


def pruned_zeros(weight: Tensor) -> Tensor | None:
    """Where a pruned weight is exactly 0, bool [out, in]; None for one that was not pruned.

    Codes there are 0 as well: they take over nothing of the columns that were rounded before.
    """
    found = weight == 0
    return found if float(found.float().mean()) >= SPARSE else None


def shrunk(hessian: Tensor, share: float) -> Tensor:
    """H with `share` of its products of different columns taken away, float32 [in, in]."""
    if not share:
        return hessian
    target = hessian * (1 - share)
    target.diagonal().copy_(hessian.diagonal())
    return target


def _order(diagonal: Tensor, act_order: bool) -> Tensor:
    if not act_order:
        return torch.arange(len(diagonal))
    return torch.argsort(diagonal, descending=True, stable=True)


def inverse_factor(hessian: Tensor, damping: float, order: Tensor) -> tuple[Tensor, float]:
    """Upper Cholesky factor of H^-1, columns in `order`, and the damping that made it possible.

    Column j of the rounding needs row j of this factor (GPTQ, step 3). Where H + damping *
    mean(H_jj) is not positive definite in float32, damping grows tenfold; ValueError above 1.
    """
    permuted = hessian[order][:, order]
    mean = max(float(permuted.diagonal().mean()), 1e-30)
    permuted.diagonal()[permuted.diagonal() <= 0] = mean
    added = 0.0
    while damping <= LARGEST_DAMPING:
        permuted.diagonal().add_((damping - added) * mean)
        added = damping
        upper = _upper_factor_of_inverse(permuted)
        if upper is not None:
            return upper, damping
        damping = max(damping * 10, 1e-4)
    raise ValueError(f"the inputs' products have no Cholesky factor at damping {LARGEST_DAMPING}")


def _upper_factor_of_inverse(matrix: Tensor) -> Tensor | None:
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return None
    inverse = torch.cholesky_inverse(lower)
    del lower  # as large as the matrix
    upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    return None if int(failed) or not bool(torch.isfinite(upper).all()) else upper


def round_columns(
    weight: Tensor, factor: Tensor, scales: Tensor, scheme: Scheme, zeros: Tensor | None = None
) -> Tensor:
    """Codes float32 [out, in]: each column's error over its pivot goes to those after it.

    GPTQ, algorithm 1: delta = (w_j - q_j) / U_jj, w_k -= delta * U_jk for k > j. Where `zeros`
    bool [out, in] is set the code is 0 (a pruned weight; SparseGPT, section 3.5).
    """
    rest = weight.T.contiguous()  # a column of the weight is contiguous here
    steps, codes = scales.T.contiguous(), torch.empty_like(rest)
    gone = None if zeros is None else zeros.T.contiguous()
    columns = len(rest)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = torch.empty_like(rest[start:end])
        for j in range(start, end):
            code = (rest[j] / steps[j]).round_().clamp_(scheme.low, scheme.high)
            if gone is not None:
                code.masked_fill_(gone[j], 0)
            codes[j] = code
            delta = code.mul_(steps[j]).sub_(rest[j]).div_(-factor[j, j])
            errors[j - start] = delta
            rest[j + 1 : end].addr_(factor[j, j + 1 : end], delta, alpha=-1)
        rest[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes.T.contiguous()


def refine(
    weight: Tensor, hessian: Tensor, start: tuple[Tensor, Tensor], scheme: Scheme, sweeps: int,
    zeros: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sweeps of coordinate descent over the codes, each before a fit of the scales.

    Codes and scales float32 [out, in] as they come and go.
    """
    codes, scales = start
    for _ in range(sweeps):
        codes = descend(weight, hessian, codes, scales, scheme, zeros)
        scales = fitted_scales(weight, hessian, codes, scales, scheme)
    return codes, scales


def descend(
    weight: Tensor, hessian: Tensor, codes: Tensor, scales: Tensor, scheme: Scheme,
    zeros: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Give each column in turn the codes that are best while all others stay; `zeros` stay 0.

    With G = (W - Q) H the best value of column j is q_j + G_j / H_jj (QuantEase, eq. 6).
    """
    gone = None if zeros is None else zeros.T.contiguous()
    now, steps = codes.T.contiguous(), scales.T.contiguous()
    gradient = hessian @ (weight - codes * scales).T
    pivots = hessian.diagonal()
    for start in range(0, len(now), BLOCK):
        end = min(start + BLOCK, len(now))
        moved = torch.zeros_like(now[start:end])
        for j in range(start, end):
            if pivots[j] <= 0:
                continue
            code = (gradient[j] / (steps[j] * pivots[j])).add_(now[j])
            code = code.round_().clamp_(scheme.low, scheme.high)
            if gone is not None:
                code.masked_fill_(gone[j], 0)
            delta = (code - now[j]).mul_(steps[j])
            now[j], moved[j - start] = code, delta
            gradient[j + 1 : end].addr_(hessian[j, j + 1 : end], delta, alpha=-1)
        gradient[end:].addmm_(hessian[end:, start:end], moved, alpha=-1)
    return now.T.contiguous()


def fitted_scales(
    weight: Tensor, hessian: Tensor, codes: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """Per row the scales s [groups] that minimize (w - s c) H (w - s c)^T for its codes c.

    The normal equations are A s = b with A_gh = c_g H_gh c_h^T and b_g = c_g (H w)_g. A row whose
    loss would grow (after rounding to 8 significant bits), or with a scale that is not positive,
    keeps what it had.
    """
    out, columns = weight.shape
    groups = scheme.groups(columns)
    size = columns // groups
    result = scales.clone()
    rows = max(1, CHUNK // max(groups * groups, columns))
    for start in range(0, out, rows):
        part = slice(start, start + rows)
        grouped = codes[part].view(-1, groups, size)
        normal = torch.empty(len(grouped), groups, groups)
        for g, band in enumerate(hessian.view(groups, size, columns)):
            crossed = (grouped[:, g] @ band).view_as(grouped)
            normal[:, g] = (crossed * grouped).sum(-1)
        right = (grouped * (weight[part] @ hessian).view(-1, groups, size)).sum(-1)
        ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        normal.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        solved = torch.linalg.solve(normal, right)
        old = scales[part, ::size]
        positive = torch.isfinite(solved) & (solved > 0.2 * old) & (solved < 5 * old)
        solved = torch.where(positive, solved, old)
        exact = torch.from_numpy(representable_scale(solved.numpy()))
        tried = exact.repeat_interleave(size, dim=1)
        before = row_losses(weight[part], hessian, codes[part], scales[part])
        after = row_losses(weight[part], hessian, codes[part], tried)
        result[part] = torch.where((after < before)[:, None], tried, scales[part])
    return result


def row_losses(weight: Tensor, hessian: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """(w - q) H (w - q)^T of each row, float32 [out]."""
    error = weight - codes * scales
    return ((error @ hessian) * error).sum(1)
