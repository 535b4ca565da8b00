"""GPTQ on the shared grid: codes that lose least of a layer's output on calibration inputs.

A layer y = x W^T with inputs X [tokens, in] loses |X W^T - X Q^T|^2 = sum over rows of
(w - q) H (w - q)^T with H = X^T X, when W [out, in] becomes Q. Frantar et al. 2022 (GPTQ): round
column after column and let the columns that follow take over each column's error. Two steps refine
the result, neither of which can make the loss larger: coordinate descent over the codes (Behdin et
al. 2023, QuantEase, eq. 6) and the least-squares scale of every group for codes that stay.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme, representable_scale

BLOCK = 128  # columns whose updates of the rest are gathered into one product (GPTQ, step 2)
LARGEST_DAMPING = 1.0
CHUNK = 1 << 25  # elements of a temporary array in the fit of scales


@dataclass(frozen=True)
class Rounding:
    """How to round: share of H's mean diagonal added to it, column order, sweeps after GPTQ.

    `act_order` visits columns by falling H_jj; groups keep their columns, so the layout stays.
    """

    damping: float = 0.01
    act_order: bool = True
    sweeps: int = 3
    search: bool = True


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
    scales = _spread(nearest, weight.shape[1])
    factor, damping = inverse_factor(hessian, how.damping, _order(diagonal, how.act_order))
    codes = torch.empty_like(weight)
    order = _order(diagonal, how.act_order)
    codes[:, order] = round_columns(weight[:, order], factor, scales[:, order], scheme)
    found = refine(weight, hessian, (codes, scales), scheme, how.sweeps)
    rounded = torch.from_numpy(nearest.codes).to(torch.float32), scales
    losses = [row_losses(weight, hessian, *pair) for pair in (found, rounded)]
    keep = losses[1] < losses[0]
    codes = torch.where(keep[:, None], rounded[0], found[0])
    scales = torch.where(keep[:, None], rounded[1], found[1])
    norm = float(((weight @ hessian) * weight).sum().clamp(min=1e-30))
    best = float(torch.minimum(*losses).sum())
    return Rounded(
        _packed(codes, scales, scheme), damping, (best / norm) ** 0.5,
        (float(losses[1].sum()) / norm) ** 0.5, int(dead.sum()),
    )  # fmt: skip


def _order(diagonal: Tensor, act_order: bool) -> Tensor:
    if not act_order:
        return torch.arange(len(diagonal))
    return torch.argsort(diagonal, descending=True, stable=True)


def _spread(tensor: QuantizedTensor, columns: int) -> Tensor:
    """The scale of every weight, float32 [out, in]."""
    scales = torch.from_numpy(tensor.scales)
    return scales.repeat_interleave(columns // scales.shape[1], dim=1)


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


def round_columns(weight: Tensor, factor: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    """Codes float32 [out, in]: each column's error over its pivot goes to those after it.

    GPTQ, algorithm 1: delta = (w_j - q_j) / U_jj, w_k -= delta * U_jk for k > j.
    """
    rest, codes = weight.clone(), torch.empty_like(weight)
    columns = weight.shape[1]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        part, errors = rest[:, start:end].clone(), torch.empty_like(rest[:, start:end])
        block = factor[start:end, start:end]
        for j in range(end - start):
            column, scale = part[:, j], scales[:, start + j]
            code = (column / scale).round_().clamp_(scheme.low, scheme.high)
            codes[:, start + j] = code
            errors[:, j] = (column - code * scale) / block[j, j]
            part[:, j + 1 :] -= errors[:, j : j + 1] * block[j, j + 1 :]
        rest[:, end:] -= errors @ factor[start:end, end:]
    return codes


def refine(
    weight: Tensor, hessian: Tensor, start: tuple[Tensor, Tensor], scheme: Scheme, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Sweeps of coordinate descent over the codes, each before a fit of the scales.

    Codes and scales float32 [out, in] as they come and go.
    """
    codes, scales = start
    for _ in range(sweeps):
        codes = descend(weight, hessian, codes, scales, scheme)
        scales = fitted_scales(weight, hessian, codes, scales, scheme)
    return codes, scales


def descend(
    weight: Tensor, hessian: Tensor, codes: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """Give each column in turn the codes that are best while all others stay.

    With G = (W - Q) H the best value of column j is q_j + G_j / H_jj (QuantEase, eq. 6).
    """
    codes = codes.clone()
    gradient = (weight - codes * scales) @ hessian
    columns = weight.shape[1]
    pivots = hessian.diagonal().clamp(min=1e-30)
    alive = hessian.diagonal() > 0
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        inner, moved = gradient[:, start:end].clone(), torch.zeros_like(gradient[:, start:end])
        block = hessian[start:end, start:end]
        for j in range(end - start):
            k = start + j
            if not alive[k]:
                continue
            scale = scales[:, k]
            wanted = codes[:, k] + inner[:, j] / (pivots[k] * scale)
            code = wanted.round_().clamp_(scheme.low, scheme.high)
            moved[:, j] = (code - codes[:, k]) * scale
            codes[:, k] = code
            inner -= moved[:, j : j + 1] * block[j]
        gradient -= moved @ hessian[start:end]
    return codes


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


def _packed(codes: Tensor, scales: Tensor, scheme: Scheme) -> QuantizedTensor:
    columns = codes.shape[1]
    size = columns // scheme.groups(columns)
    kept: Float32 = scales[:, ::size].contiguous().numpy()
    return QuantizedTensor(scheme, codes.to(torch.int8).numpy(), kept)
