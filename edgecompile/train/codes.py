"""Weights that are codes on the shared grid while they are trained: what is learned is exported."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme, representable_scale
from edgecompile.numerics.swap import owners, parameter_names
from edgecompile.train.watched import Watched

# How far a scale moves while a latent code moves by 1, as a share of itself: AdamW moves every
# parameter by about the rate, whatever its gradient.
SCALE_STEP = 0.1
FLOAT_STEP = 0.1  # the same of a norm's or a bias's elements, in units of their mean magnitude


class _Codes(torch.autograd.Function):
    """weight[out, groups, size] = codes * scales, codes = the latent ones rounded and clipped.

    The rounding's derivative is taken as 1 (straight-through, Bengio et al. 2013), outside the
    grid as 0 unless the step leads back to it; that by the scales is exact.
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(latent, scales)
        ctx.low, ctx.high = low, high
        return latent.round().clamp_(low, high).mul_(scales[:, :, None])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (given,) = gradients
        latent, scales = ctx.saved_tensors
        by_scales = None
        if ctx.needs_input_grad[1]:
            codes = latent.round().clamp_(ctx.low, ctx.high)
            by_scales = codes.mul_(given).sum(2)
        further = (latent > ctx.high) & (given < 0) | (latent < ctx.low) & (given > 0)
        return (given * scales[:, :, None]).masked_fill_(further, 0.0), by_scales, None, None


class _Representable(torch.autograd.Function):
    """Scales as numerics.schemes.representable_scale rounds them; its derivative is taken as 1."""

    @staticmethod
    def forward(_ctx: Any, scales: Tensor) -> Tensor:
        return torch.from_numpy(representable_scale(scales.cpu().numpy())).to(scales.device)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class CodedWeight(nn.Module):
    """A weight [out, in] on a scheme: a latent code an element, and how each scale has changed.

    `latent` float32 [out, groups, size] is in units of codes and begins as the codes themselves;
    `change` float32 [out, groups] is ln(scale / its first value) / SCALE_STEP and begins as 0.
    """

    first: Tensor
    inputs: Tensor | None

    def __init__(self, tensor: QuantizedTensor, shape: tuple[int, ...], scales: bool) -> None:
        super().__init__()
        self.scheme, self.shape = tensor.scheme, shape
        first = torch.tensor(tensor.scales)
        codes = torch.tensor(tensor.codes, dtype=torch.float32).view(*first.shape, -1)
        self.latent = nn.Parameter(codes)
        self.change = nn.Parameter(torch.zeros_like(first), requires_grad=scales)
        self.register_buffer("first", first, persistent=False)
        inputs = None if tensor.inputs is None else torch.tensor(tensor.inputs)
        self.register_buffer("inputs", inputs, persistent=False)

    def scales(self) -> Tensor:
        """Float32 [out, groups], exactly as they will be exported."""
        if not self.change.requires_grad:
            return self.first
        now = self.first * (SCALE_STEP * self.change).exp()
        found: Tensor = _Representable.apply(now)  # type: ignore[no-untyped-call]
        return found

    def forward(self) -> Tensor:
        """The weight in its module's shape: what the engines will compute with."""
        grid: Scheme = self.scheme
        weight: Tensor = _Codes.apply(  # type: ignore[no-untyped-call]
            self.latent, self.scales(), grid.low, grid.high
        )
        if self.inputs is not None:
            weight = weight.flatten(1) * self.inputs
        return weight.reshape(self.shape)

    @torch.no_grad()
    def exported(self) -> QuantizedTensor:
        """The codes and scales of the last step."""
        rounded = self.latent.round().clamp_(self.scheme.low, self.scheme.high)
        codes = rounded.flatten(1).to(torch.int8).numpy()
        inputs = None if self.inputs is None else self.inputs.numpy()
        return QuantizedTensor(self.scheme, codes, self.scales().detach().numpy(), inputs)


class FloatChange(nn.Module):
    """A float tensor as its first value and what was added, in FLOAT_STEP of its magnitude."""

    first: Tensor

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.step = FLOAT_STEP * max(float(first.abs().mean()), 1e-6)
        self.change = nn.Parameter(torch.zeros_like(first))
        self.register_buffer("first", first.clone(), persistent=False)

    def forward(self) -> Tensor:
        """The tensor now."""
        return self.first + self.step * self.change


@dataclass(frozen=True)
class Learned:
    """What of a student is trained, by source tensor; the rest of its parameters is fixed."""

    codes: Mapping[str, CodedWeight]
    floats: Mapping[str, FloatChange]


def install(
    student: Watched, quantized: Mapping[str, QuantizedTensor], replaced: Mapping[str, Float32],
    trained: Iterable[str], floats: Iterable[str], scales: bool,
) -> Learned:  # fmt: skip
    """Have the student compute with the codes and the replaced floats, and train those named.

    A tied tensor is one weight with all modules that hold it.
    """
    body = student.body
    names = parameter_names(body, [*quantized, *replaced, *floats])
    if lost := sorted({*quantized, *replaced} - names.keys()):
        raise BadInputError("tensors of a pass", f"{lost[0]} is no parameter of the module")
    for parameter in body.parameters():
        parameter.requires_grad_(False)
    held, chosen = owners(body), set(trained)
    codes, changes = dict[str, CodedWeight](), dict[str, FloatChange]()
    for source, values in replaced.items():
        body.get_parameter(names[source]).data = torch.tensor(values)
    for source in quantized:
        parameter, tensor = body.get_parameter(names[source]), quantized[source]
        if source in chosen:
            codes[source] = CodedWeight(tensor, tuple(parameter.shape), scales)
            _give(held[id(parameter)], parameter, codes[source])
        else:
            # torch's own memory: products depend on how it is aligned, and runs have to agree
            parameter.data = torch.tensor(tensor.dequantize()).view(parameter.shape)
    for source in floats:
        parameter = body.get_parameter(names[source])
        changes[source] = FloatChange(parameter.data)
        _give(held[id(parameter)], parameter, changes[source])
    # in the module's own tree: checkpoints and the optimizer find them there
    student.learned = nn.ModuleList([*codes.values(), *changes.values()])
    return Learned(codes, changes)


def _give(holders: Iterable[nn.Module], parameter: nn.Parameter, made: nn.Module) -> None:
    """Each holder computes with what `made` gives, made anew for every call."""
    for holder in holders:
        for leaf in [name for name, value in holder._parameters.items() if value is parameter]:
            del holder._parameters[leaf]
            holder.register_forward_pre_hook(_Hook(leaf, made))


class _Hook:
    def __init__(self, leaf: str, made: nn.Module) -> None:
        self.leaf, self.made = leaf, made

    def __call__(self, module: nn.Module, _given: Any) -> None:
        setattr(module, self.leaf, self.made())
