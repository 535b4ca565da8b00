"""Batch norms multiplied into the convolutions before them, as ExecuTorch's own passes would do.

It is done here, in torch and before the export, so that what the file should hold is known: step 0
compares the products. Pairs are found by running the module, and its answers must stay the same.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.errors import UnsupportedError
from edgecompile.graphs import Graph
from edgecompile.modules import flat_outputs
from edgecompile.numerics.schemes import Float32
from edgecompile.numerics.swap import parameter_names
from edgecompile.reference import Reference

COUNTER = "num_batches_tracked"
SAME = 1e-3  # of the largest answer: float32 products in another order, tens of layers deep
Norm = nn.BatchNorm1d | nn.BatchNorm2d
Convolution = nn.Conv1d | nn.Conv2d


@dataclass
class Folds:
    """`values` are what the file holds for a source tensor, `gone` says why it holds none."""

    values: dict[str, Float32] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)


def fold(reference: Reference, one: Graph) -> Folds:
    """Change the reference's module in place; UnsupportedError where its answers would change."""
    found, body = Folds(), reference.body
    sources = {name: s for s, name in parameter_names(body, reference.model.weights).items()}
    found.gone |= {s: "a counter of training" for s in sources.values() if s.endswith(COUNTER)}
    before = _answers(one)
    for conv, norm in _pairs(body, one):
        _fold(body, conv, norm, sources, found)
    after = _answers(one)
    for old, new in zip(before, after, strict=True):
        if float((old - new).abs().max()) > SAME * float(old.abs().max()):
            raise UnsupportedError(
                "executorch backend", "a convolution before a batch norm has other readers too",
                "convolutions that batch norms alone read", "--target cpu",
            )  # fmt: skip
    return found


def _answers(one: Graph) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in one.given.items()
    }
    with torch.inference_mode():
        return flat_outputs(one.module(**given))


def _pairs(body: nn.Module, one: Graph) -> Iterator[tuple[str, str]]:
    """Paths of a convolution and of the norm that is given its output."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # by identity, of tensors that are kept alive
    pairs: list[tuple[str, str]] = []
    with ExitStack() as hooks:
        for path, module in body.named_modules():
            if isinstance(module, Convolution):
                def note(_m: Any, _a: Any, value: Tensor, path: str = path) -> None:
                    outputs[id(value)] = path, value

                hooks.callback(module.register_forward_hook(note).remove)
            elif isinstance(module, Norm):
                def meet(_m: Any, given: tuple[Tensor, ...], path: str = path) -> None:
                    if id(given[0]) in outputs:
                        pairs.append((outputs[id(given[0])][0], path))

                hooks.callback(module.register_forward_pre_hook(meet).remove)
        _answers(one)
    yield from dict.fromkeys(pairs)


def _fold(
    body: nn.Module, conv_path: str, norm_path: str, sources: Mapping[str, str], found: Folds
) -> None:
    """Weight x gamma / sqrt(variance + epsilon); the rest of the norm becomes the bias."""
    conv: Any = body.get_submodule(conv_path)
    norm: Any = body.get_submodule(norm_path)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias
    weight = conv.weight * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    conv.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    parent, _, leaf = norm_path.rpartition(".")
    setattr(body.get_submodule(parent), leaf, nn.Identity())
    why = f"multiplied into {sources.get(f'{conv_path}.weight', conv_path)}"
    for name in ("weight", "running_mean", "running_var"):
        if source := sources.get(f"{norm_path}.{name}"):
            found.gone[source] = why
    if source := sources.get(f"{conv_path}.bias"):
        found.gone[source] = why
    found.values[sources[f"{conv_path}.weight"]] = conv.weight.numpy()
    if source := sources.get(f"{norm_path}.bias"):
        found.values[source] = conv.bias.numpy()
