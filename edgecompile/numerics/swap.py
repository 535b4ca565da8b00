"""Load tensors into a torch module by source name, and swap quantized ones in for a while."""
from __future__ import annotations

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from edgecompile.errors import BadInputError
from edgecompile.model import TensorInfo, Weights
from edgecompile.numerics.schemes import Float32, QuantizedTensor

KEEP_BYTES = 256 << 20  # float32 weights that may all live at once


def parameter_names(module: nn.Module, source: Iterable[str]) -> dict[str, str]:
    """Source tensor name -> the module's name, with the base model's prefix added or dropped.

    A checkpoint of `bert.encoder...` fits a bare encoder, and the other way round; names of older
    classes become today's. Names that the module lacks are left out.
    """
    rename = _renaming(module)
    known = module.state_dict().keys()
    prefix = str(getattr(module, "base_model_prefix", "") or "\0") + "."
    names = {}
    for name in source:
        modern = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        today = rename(name)
        for candidate in (
            name, modern, name.removeprefix(prefix), prefix + name,
            today, today.removeprefix(prefix), prefix + today,
        ):  # fmt: skip
            if candidate in known:
                names[name] = candidate
                break
    return names


def _renaming(module: nn.Module) -> Callable[[str], str]:
    """How transformers itself reads names of checkpoints that older versions of a class wrote.

    Only what renames: tensors that it would join or cut keep their names, and are missed loudly.
    """
    from transformers import PreTrainedModel

    if not isinstance(module, PreTrainedModel):
        return lambda name: name
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(module)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    return lambda name: str(rename_source_key(name, renamings, [])[0])


class Feed:
    """Gives an nn.Linear its weight just before it runs and takes it back after.

    Between calls the weight has no elements, so that code that reads it directly fails loudly.
    """

    def __init__(self, owner: nn.Linear, supply: Callable[[], torch.Tensor]) -> None:
        self.owner, self.supply = owner, supply
        self.kept = owner.weight
        self._hooks = (
            owner.register_forward_pre_hook(self._give), owner.register_forward_hook(self._take)
        )  # fmt: skip
        self._set(torch.empty(0))

    def close(self) -> None:
        """Give the layer back the parameter that it had."""
        self.owner.weight = self.kept
        for hook in self._hooks:
            hook.remove()

    def _set(self, value: torch.Tensor) -> None:
        self.owner.weight = nn.Parameter(value, requires_grad=False)

    def _give(self, _module: nn.Module, _inputs: Any) -> None:
        self._set(self.supply())

    def _take(self, _module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        self._set(torch.empty(0))


Feeds = Mapping[str, Feed]  # by the module's parameter name


def load_weights(
    module: nn.Module, weights: Weights, where: str, lean: bool = False
) -> tuple[tuple[str, ...], Feeds]:
    """Give every parameter its tensor as float32, memory-mapped where it is stored so.

    Returns the source tensors that the module does not use, and the layers that are read from the
    file each time they run: with `lean`, those of models above KEEP_BYTES. Raises BadInputError,
    naming them, for parameters that no tensor fills and for shapes that differ.
    """
    names = parameter_names(module, weights)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for source, name in names.items():
        found, expected = tuple(weights.infos[source].shape), shapes[name]
        if found != expected:
            raise BadInputError(where, f"{source} has shape {found}", f"{expected} by the config")
    fed = _linears(module, names) if lean and _bytes(weights) > KEEP_BYTES else {}
    if fed:
        _return_freed_memory()
    module.load_state_dict(
        {name: _float32(weights[source]) for source, name in names.items() if source not in fed},
        strict=False,
        assign=True,
    )
    if callable(tie := getattr(module, "tie_weights", None)):
        tie(missing_keys=shapes.keys() - set(names.values()))
    _refuse_missing(module, set(names.values()), where)
    feeds = {names[s]: Feed(owner, _reader(s, weights.infos[s])) for s, owner in fed.items()}
    return tuple(name for name in weights if name not in names), feeds


def _return_freed_memory() -> None:
    """Tell glibc to give blocks above 1 MiB back when they are freed.

    It raises that size by itself to 32 MiB, and then keeps every layer's weight that was fed.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD, malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(mmap_threshold, 1 << 20)


def _bytes(weights: Weights) -> int:
    return sum(4 * math.prod(info.shape) for info in weights.infos.values())


def _linears(module: nn.Module, names: Mapping[str, str]) -> dict[str, nn.Linear]:
    """Source name -> the plain nn.Linear that alone holds its weight."""
    held = owners(module)
    found = {}
    for source, name in names.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        alone = leaf == "weight" and len(held.get(id(getattr(owner, leaf)), ())) == 1
        tied = name in getattr(module, "all_tied_weights_keys", {})
        if type(owner) is nn.Linear and alone and not tied:
            found[source] = owner
    return found


def _reader(name: str, info: TensorInfo) -> Callable[[], torch.Tensor]:
    """Read the tensor through a mapping of its own, which goes when the tensor goes."""
    return lambda: _float32(Weights({name: info})[name])


def _float32(tensor: torch.Tensor) -> torch.Tensor:
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
def swapped(
    module: nn.Module, quantized: Mapping[str, QuantizedTensor], feeds: Feeds,
    replaced: Mapping[str, Float32] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Inside, the module computes with the dequantized codes and the replaced float tensors.

    Tied parameters follow. Up to KEEP_BYTES everything is dequantized at once; above, each
    nn.Linear gets its weight just before it runs and gives it back after, so that memory grows by
    one layer.
    """
    replaced = replaced or {}
    names = parameter_names(module, [*quantized, *replaced])
    if lost := sorted({*quantized, *replaced} - set(names)):
        raise BadInputError("tensors of a pass", f"{lost[0]} is no parameter of the module")
    lazily = sum(tensor.codes.size * 4 for tensor in quantized.values()) > KEEP_BYTES
    held = owners(module)
    with ExitStack() as stack:
        for source in replaced:
            if names[source] in feeds:
                supply = functools.partial(_tensor, replaced, source)
                stack.enter_context(_fed(feeds[names[source]], supply))
                continue
            parameter = module.get_parameter(names[source])
            stack.enter_context(_swapped_now(parameter, _tensor(replaced, source)))
        for source in quantized:
            name, tensor = names[source], quantized[source]
            if name in feeds:
                stack.enter_context(_fed(feeds[name], _dequantizer(tensor)))
                continue
            holders = held[id(module.get_parameter(name))]
            if lazily and len(holders) == 1 and type(holders[0]) is nn.Linear:
                stack.callback(Feed(holders[0], _dequantizer(tensor)).close)
            else:
                parameter = module.get_parameter(name)
                value = _dequantizer(tensor)().view(parameter.shape)
                stack.enter_context(_swapped_now(parameter, value))
        yield


def _tensor(replaced: Mapping[str, Float32], source: str) -> torch.Tensor:
    return torch.tensor(replaced[source])


def _dequantizer(tensor: QuantizedTensor) -> Callable[[], torch.Tensor]:
    return lambda: torch.from_numpy(tensor.dequantize())


@contextmanager
def _fed(feed: Feed, supply: Callable[[], torch.Tensor]) -> Iterator[None]:
    before, feed.supply = feed.supply, supply
    try:
        yield
    finally:
        feed.supply = before


def owners(module: nn.Module) -> dict[int, list[nn.Module]]:
    """Identity of a parameter -> the modules that hold it (several when tied)."""
    found: dict[int, list[nn.Module]] = {}
    for child in module.modules():
        for value in child.parameters(recurse=False):
            found.setdefault(id(value), []).append(child)
    return found


@contextmanager
def _swapped_now(parameter: nn.Parameter, value: torch.Tensor) -> Iterator[None]:
    """The parameter's own data changes, so every module that is tied to it sees it."""
    before = parameter.data
    parameter.data = value
    try:
        yield
    finally:
        parameter.data = before
