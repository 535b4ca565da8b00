"""A torch module that computes its weights from codes: what is exported and compiled."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecompile.backends import packing
from edgecompile.backends.joining import CODES, SCALES
from edgecompile.model import Model
from edgecompile.modules import flat_outputs
from edgecompile.numerics.schemes import QuantizedTensor
from edgecompile.numerics.swap import parameter_names
from edgecompile.reference import Reference

WEIGHTS = "weights."  # before the source's names, in the module and in the file
INPUTS = ".inputs"  # after the name of a tensor with codes


@dataclass(frozen=True)
class Found:
    """Where the module keeps the source's tensors: source -> its names there.

    `shared` maps a source tensor to the one that holds its values; `absent` have no place.
    """

    places: Mapping[str, tuple[str, ...]]
    shared: Mapping[str, str]
    absent: tuple[str, ...] = ()


@dataclass
class _Names:
    by_value: dict[int, list[str]] = field(default_factory=dict)  # identity -> the module's names

    def add(self, name: str, value: Tensor) -> None:
        self.by_value.setdefault(id(value), []).append(name)


def find(reference: Reference, module: nn.Module) -> Found:
    """Match the source's floats with `module`'s by identity, so that tied ones are one."""
    known, held = _Names(), _tensors(reference.body)
    for name, value in _tensors(module).items():
        known.add(name, value)
    names = parameter_names(reference.body, reference.model.weights)
    places: dict[str, tuple[str, ...]] = {}
    first: dict[int, str] = {}
    shared, absent = {}, []
    for source in reference.model.weights:
        tensor = held.get(names.get(source, ""))
        if tensor is None or not tensor.is_floating_point() or id(tensor) not in known.by_value:
            absent.append(source)
        elif id(tensor) in first:
            shared[source] = first[id(tensor)]
        else:
            first[id(tensor)] = source
            places[source] = tuple(known.by_value[id(tensor)])
    return Found(places, shared, tuple(absent))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return found | dict(module.named_buffers(remove_duplicate=False))


class Coded(nn.Module):
    """`body` with its tensors under the source's names, codes in the place of quantized floats.

    Called with the inputs in the order of `given`; gives its outputs one after the other.
    """

    def __init__(
        self, body: nn.Module, model: Model, found: Found, given: Sequence[str]
    ) -> None:
        super().__init__()
        self.body, self._given = body, tuple(given)
        self._makers: list[tuple[tuple[str, ...], Callable[[], Tensor]]] = []
        for source, names in found.places.items():
            shape = tuple(model.weights.infos[source].shape)
            self._makers.append((names, self._maker(source, model, shape)))

    def _maker(self, source: str, model: Model, shape: tuple[int, ...]) -> Callable[[], Tensor]:
        path = WEIGHTS + source
        if source not in model.quantized:
            self._hold(path, torch.from_numpy(np.array(model.dense(source), np.float32)))
            return lambda: self.get_buffer(path)
        tensor = model.quantized[source]
        stored = encoded(tensor)
        for suffix, value in stored.items():
            self._hold(path + suffix, torch.from_numpy(value))

        def made() -> Tensor:
            parts = {suffix: self.get_buffer(path + suffix) for suffix in stored}
            return dequantized(parts).reshape(shape)

        return made

    def _hold(self, path: str, value: Tensor) -> None:
        *parents, leaf = path.split(".")
        place: nn.Module = self
        for name in parents:
            if name not in place._modules:
                place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.register_buffer(leaf, value)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """The body's outputs with its weights made from what is held here."""
        values = {name: make() for names, make in self._makers for name in names[:1]}
        named = dict(zip(self._given, inputs, strict=True))
        result: Any = torch.func.functional_call(self.body, values, (), named, tie_weights=True)
        return flat_outputs(result)


def encoded(tensor: QuantizedTensor) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of one tensor by suffix: codes, scales, and factors where there are any.

    int8 [out, in]; int4 as uint8 [out, in / 2], code + 8, the even column in the low nibble.
    Scales float16, in which they are exact: [out], or [out, groups] where rows are cut.
    """
    whole = not tensor.scheme.group_size
    scales = tensor.scales.astype(np.float16)
    codes = packing.pack(tensor.codes, 4) if tensor.scheme.bits == 4 else np.array(tensor.codes)
    found: dict[str, np.ndarray[Any, Any]] = {
        CODES: codes, SCALES: scales[:, 0].copy() if whole else scales,
    }  # fmt: skip
    if tensor.inputs is not None:
        found[INPUTS] = np.array(tensor.inputs, np.float32)
    return found


def dequantized(parts: Mapping[str, Tensor]) -> Tensor:
    """codes * scales (* inputs), float32 [out, in], as QuantizedTensor.dequantize says."""
    codes, scales = parts[CODES], parts[SCALES].to(torch.float32)
    if codes.dtype == torch.uint8:
        pairs = torch.stack((codes & 15, codes >> 4), dim=-1)
        codes = pairs.reshape(codes.shape[0], -1).to(torch.int8) - 8
    values = codes.to(torch.float32)
    if scales.ndim == 1:
        values = values * scales[:, None]
    else:
        cut = values.reshape(*scales.shape, -1)
        values = (cut * scales[:, :, None]).reshape(values.shape)
    return values * parts[INPUTS] if INPUTS in parts else values
