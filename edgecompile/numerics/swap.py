"""Load tensors into a torch module by source name, and swap quantized ones in for a while."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from edgecompile.errors import BadInputError
from edgecompile.model import Weights
from edgecompile.numerics.schemes import QuantizedTensor

KEEP_BYTES = 256 << 20  # dequantized weights that may all live at once


def parameter_names(module: nn.Module, source: Mapping[str, Any]) -> dict[str, str]:
    """Source tensor name -> the module's name, with the base model's prefix added or dropped.

    A checkpoint of `bert.encoder...` fits a bare encoder, and the other way round. Names that the
    module lacks are left out.
    """
    known = module.state_dict().keys()
    prefix = str(getattr(module, "base_model_prefix", "") or "\0") + "."
    names = {}
    for name in source:
        modern = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        for candidate in (name, modern, name.removeprefix(prefix), prefix + name):
            if candidate in known:
                names[name] = candidate
                break
    return names


def load_weights(module: nn.Module, weights: Weights, where: str) -> tuple[str, ...]:
    """Give every parameter its tensor as float32, memory-mapped where it is stored so.

    Returns the source tensors that the module does not use; raises BadInputError, naming them, for
    parameters that no tensor fills and for shapes that differ.
    """
    names = parameter_names(module, weights)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for source, name in names.items():
        found, expected = tuple(weights.infos[source].shape), shapes[name]
        if found != expected:
            raise BadInputError(where, f"{source} has shape {found}", f"{expected} by the config")
    module.load_state_dict(
        {name: _as_module_dtype(weights[source]) for source, name in names.items()},
        strict=False,
        assign=True,
    )
    if callable(tie := getattr(module, "tie_weights", None)):
        tie(missing_keys=shapes.keys() - set(names.values()))
    _refuse_missing(module, set(names.values()), where)
    return tuple(name for name in weights if name not in names)


def _as_module_dtype(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _refuse_missing(module: nn.Module, loaded: set[str], where: str) -> None:
    """A parameter is filled when its own tensor, or one it is tied to, was read."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    filled = {id(parameters[name]) for name in loaded if name in parameters}
    missing = [name for name, value in parameters.items() if id(value) not in filled]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise BadInputError(
            where,
            f"{len(missing)} parameters of the model have no tensor: {shown}",
            "every parameter in the safetensors files",
            "check that all shards are there and that config.json belongs to them",
        )


@contextmanager
def swapped(module: nn.Module, quantized: Mapping[str, QuantizedTensor]) -> Iterator[None]:
    """Inside, the module computes with the dequantized codes; tied parameters follow.

    Up to KEEP_BYTES everything is dequantized at once; above, each nn.Linear gets its weight just
    before it runs and gives it back after, so that memory grows by one layer.
    """
    names = parameter_names(module, quantized)
    if lost := sorted(set(quantized) - set(names)):
        raise BadInputError("quantized tensors", f"{lost[0]} is no parameter of the module")
    lazily = sum(tensor.codes.size * 4 for tensor in quantized.values()) > KEEP_BYTES
    owners = _owners(module)
    with ExitStack() as stack:
        for source, name in names.items():
            for owner in owners[id(module.get_parameter(name))]:
                if lazily and type(owner) is nn.Linear:
                    stack.enter_context(_swapped_lazily(owner, quantized[source].dequantize))
                    continue
                stack.enter_context(_swapped_now(owner, quantized[source], name))
        yield


def _owners(module: nn.Module) -> dict[int, list[nn.Module]]:
    """Identity of a parameter -> the modules that hold it (several when tied)."""
    owners: dict[int, list[nn.Module]] = {}
    for child in module.modules():
        for value in child.parameters(recurse=False):
            owners.setdefault(id(value), []).append(child)
    return owners


@contextmanager
def _swapped_now(owner: nn.Module, tensor: QuantizedTensor, name: str) -> Iterator[None]:
    parameter = owner.get_parameter(name.rpartition(".")[2])
    before = parameter.data
    parameter.data = torch.from_numpy(tensor.dequantize())
    try:
        yield
    finally:
        parameter.data = before


@contextmanager
def _swapped_lazily(owner: nn.Linear, dequantize: Callable[[], Any]) -> Iterator[None]:
    source = owner.weight

    def before(_module: nn.Module, _inputs: Any) -> None:
        owner.weight = nn.Parameter(torch.from_numpy(dequantize()), requires_grad=False)

    def after(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        owner.weight = source

    hooks = owner.register_forward_pre_hook(before), owner.register_forward_hook(after)
    try:
        yield
    finally:
        owner.weight = source
        for hook in hooks:
            hook.remove()
