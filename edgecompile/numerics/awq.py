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

from edgecompile.numerics.gptq import round_columns
from edgecompile.numerics.parallel import pieces, spread
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme

POINTS = 20  # values of alpha from 0 to 1
SAMPLE = 512  # rows of a matrix that the search looks at; its best is tried on all
ROWS = 512  # worked on by one thread
WORSE = 1.2  # times the least loss: the search ends, larger alphas lose more still
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
    """The alpha whose scales lose least of the group's outputs when rounded to nearest.

    Never worse than none: alpha 0 stands for it.
    """
    sample = [Matrix(m.weight[:: max(1, len(m.weight) // SAMPLE)], m.scheme) for m in matrices]
    ones = torch.ones_like(inputs.magnitude)
    best, chosen, least = 0.0, ones, total_loss(sample, inputs, ones, scale_search)
    for alpha in torch.linspace(0, 1, POINTS).tolist()[1:]:
        scale = channel_scales(inputs, alpha)
        found = total_loss(sample, inputs, scale, scale_search)
        if found < least:
            best, chosen, least = alpha, scale, found
        elif found > WORSE * least:
            break
    plain = total_loss(matrices, inputs, ones, scale_search)
    least = total_loss(matrices, inputs, chosen, scale_search) if best else plain
    if not best or least >= plain:
        return Scaling(0.0, ones, plain, plain)
    return Scaling(best, chosen, least, plain)


def channel_scales(inputs: Inputs, alpha: float) -> Tensor:
    """m^alpha / sqrt(max * min) float32 [in], one for all copies of a neighbour's channel."""
    count = int(inputs.channels.max()) + 1
    sums, copies = torch.zeros(count), torch.zeros(count)
    sums.index_add_(0, inputs.channels, inputs.magnitude)
    copies.index_add_(0, inputs.channels, torch.ones_like(inputs.magnitude))
    mean = (sums / copies.clamp(min=1))[inputs.channels]
    scale = mean.clamp(min=max(float(mean.max()) * FLOOR, 1e-30)) ** alpha
    return scale / (scale.max() * scale.min()).sqrt()


def total_loss(
    matrices: Sequence[Matrix], inputs: Inputs, scale: Tensor, scale_search: bool
) -> float:
    """tr((W - Q(W s) / s) H (W - Q(W s) / s)^T), summed over the matrices, per token."""
    importance = (column_weights(inputs.hessian) / scale**2).numpy()
    total = 0.0
    for matrix in matrices:
        scaled = (matrix.weight * scale).numpy()
        nearest = quantize(scaled, matrix.scheme, scale_search, importance)
        if inputs.factor is None:
            total += output_loss(matrix.weight, nearest, inputs.hessian, scale)
        else:
            total += _gptq_loss(matrix.weight, nearest, inputs, scale)
    return total


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


def _gptq_loss(weight: Tensor, nearest: QuantizedTensor, inputs: Inputs, scale: Tensor) -> float:
    """The same where GPTQ chooses the codes.

    On W s and the inputs x / s it chooses what it does on W and x with steps divided by s.
    """
    order, factor = inputs.order, inputs.factor
    assert order is not None
    assert factor is not None
    size = weight.shape[1] // nearest.scales.shape[1]

    def part(rows: slice) -> float:
        steps = torch.from_numpy(nearest.scales[rows]).repeat_interleave(size, dim=1) / scale
        codes = round_columns(weight[rows][:, order], factor, steps[:, order], nearest.scheme)
        error = weight[rows].clone()
        error[:, order] -= codes * steps[:, order]
        return float(((error @ inputs.hessian) * error).sum())

    return sum(spread(part, pieces(len(weight), ROWS)))
