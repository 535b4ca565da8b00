"""AWQ: scale a layer's input channels so that those with large activations round with less error.

Lin et al. 2023, eq. 4: Q(W diag(s)) diag(1/s) in place of Q(W). The scales divide what comes before
the layer, so the float model stays the same. s = m^alpha for the mean magnitude m of each input
channel, alpha searched for the least loss of the layer's output (eq. 5), rounded as it will be: the
best alpha for rounding to nearest is too large for GPTQ, which moves errors between columns itself.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgecompile.numerics.gptq import pruned_zeros, round_columns
from edgecompile.numerics.parallel import pieces, spread
from edgecompile.numerics.rtn import best_scales
from edgecompile.numerics.schemes import QuantizedTensor, Scheme

POINTS = 20  # values of alpha from 0 to 1
SAMPLE = 128  # rows of a matrix that the search looks at; its best is tried on all
ROWS = POINTS * SAMPLE  # rounded by one thread; few would wait for the interpreter more than work
ELEMENTS = 1 << 23  # of these rows at most: seven arrays as large are needed
FLOOR = 1e-4  # of the largest magnitude: a channel below it scales as if it had that


@dataclass(frozen=True)
class Matrix:
    """A weight float32 [out, in] and the scheme that it will be rounded on."""

    weight: Tensor
    scheme: Scheme


@dataclass(frozen=True)
class Inputs:
    """What enters a group of matrices: H = E[x^T x] float32 [in, in], m = E|x| float32 [in].

    `channels` int64 [in] says which output of the neighbour each input channel is a copy of.
    With a `factor` [in, in] of H^-1, columns in `order`, GPTQ rounds; else rounding is to nearest.
    """

    hessian: Tensor
    magnitude: Tensor
    channels: Tensor
    order: Tensor | None = None
    factor: Tensor | None = None


@dataclass(frozen=True)
class Scaling:
    """The scale float32 [in] of each input channel, and the losses with and without it."""

    alpha: float
    scale: Tensor
    loss: float
    plain_loss: float


def search(matrices: Sequence[Matrix], inputs: Inputs, scale_search: bool = True) -> Scaling:
    """The alpha whose scales lose least of the group's outputs.

    Never worse than none: alpha 0 stands for it.
    """
    alphas = torch.linspace(0, 1, POINTS).tolist()
    scales = [channel_scales(inputs, alpha) for alpha in alphas]
    sample = [Matrix(m.weight[:: max(1, len(m.weight) // SAMPLE)], m.scheme) for m in matrices]
    sampled = total_losses(sample, inputs, scales, scale_search)
    best = sampled.index(min(sampled))
    plain, least = total_losses(matrices, inputs, [scales[0], scales[best]], scale_search)
    if not best or least >= plain:
        return Scaling(0.0, scales[0], plain, plain)
    return Scaling(alphas[best], scales[best], least, plain)


def channel_scales(inputs: Inputs, alpha: float) -> Tensor:
    """m^alpha / sqrt(max * min) float32 [in], one for all copies of a neighbour's channel."""
    count = int(inputs.channels.max()) + 1
    sums, copies = torch.zeros(count), torch.zeros(count)
    sums.index_add_(0, inputs.channels, inputs.magnitude)
    copies.index_add_(0, inputs.channels, torch.ones_like(inputs.magnitude))
    mean = (sums / copies.clamp(min=1))[inputs.channels]
    scale = mean.clamp(min=max(float(mean.max()) * FLOOR, 1e-30)) ** alpha
    return scale / (scale.max() * scale.min()).sqrt()


def total_losses(
    matrices: Sequence[Matrix], inputs: Inputs, scales: Sequence[Tensor], scale_search: bool
) -> list[float]:
    """tr((W - Q(W s) / s) H (W - Q(W s) / s)^T) per token for each s, summed over the matrices."""
    most = max(1, min(ROWS, ELEMENTS // len(inputs.magnitude)))
    jobs = [
        (Matrix(matrix.weight[rows], matrix.scheme), chosen)
        for matrix in matrices
        for rows in pieces(len(matrix.weight), most)
        for chosen in pieces(len(scales), max(1, most // len(matrix.weight[rows])))
    ]

    def work(job: tuple[Matrix, slice]) -> list[float]:
        return _losses(job[0], inputs, scales[job[1]], scale_search)

    total = [0.0] * len(scales)
    for (_, chosen), found in zip(jobs, spread(work, jobs), strict=True):
        for index, loss in enumerate(found, chosen.start):
            total[index] += loss
    return total


def _losses(
    matrix: Matrix, inputs: Inputs, scales: Sequence[Tensor], scale_search: bool
) -> list[float]:
    """The same for some rows, which are rounded for all scales at once.

    On W s and the inputs x / s GPTQ chooses what it does on W and x with steps divided by s.
    """
    weight, order = torch.cat([matrix.weight] * len(scales)), inputs.order
    steps = torch.cat([_steps(matrix, inputs, scale, scale_search) for scale in scales])
    if order is None or inputs.factor is None:
        codes = (weight / steps).round_().clamp_(matrix.scheme.low, matrix.scheme.high)
    else:
        codes = torch.empty_like(weight)
        codes[:, order] = round_columns(
            weight[:, order], inputs.factor, steps[:, order], matrix.scheme,
            None if (zeros := pruned_zeros(weight)) is None else zeros[:, order],
        )  # fmt: skip
    error = weight.addcmul_(codes, steps, value=-1)
    lost = ((error @ inputs.hessian) * error).sum(1)
    found: list[float] = lost.view(len(scales), -1).sum(1).tolist()
    return found


def _steps(matrix: Matrix, inputs: Inputs, scale: Tensor, scale_search: bool) -> Tensor:
    """The steps of W s divided by s: what a code of each weight is worth, float32 [out, in]."""
    rows, columns = matrix.weight.shape
    groups = matrix.scheme.groups(columns)
    importance = (column_weights(inputs.hessian) / scale**2).view(1, groups, -1)
    scaled = (matrix.weight * scale).view(rows, groups, -1)
    steps = best_scales(scaled, matrix.scheme, scale_search, importance)
    return steps.repeat_interleave(columns // groups, dim=1) / scale


def column_weights(hessian: Tensor) -> Tensor:
    """E[x_j^2] float32 [in]; the mean stands for columns that no input reaches."""
    diagonal = hessian.diagonal()
    return torch.where(diagonal > 0, diagonal, diagonal.mean().clamp(min=1e-30))


def output_loss(weight: Tensor, rounded: QuantizedTensor, hessian: Tensor, scale: Tensor) -> float:
    """|X (W - Q / s)^T|^2 per token, for Q [out, in] rounded from W s."""
    error = weight - torch.from_numpy(rounded.dequantize()) / scale

    def part(rows: slice) -> float:
        return float(((error[rows] @ hessian) * error[rows]).sum())

    return sum(spread(part, pieces(len(error), ROWS)))
