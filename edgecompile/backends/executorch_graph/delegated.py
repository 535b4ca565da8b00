"""Constants of delegates that no machine here runs, found again by content.

`places` in the manifest names where each source tensor is; what is there is read from the sealed
file, so a changed code shows although nothing multiplies with it.
"""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends import Decoded
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme, float_digest

Values = QuantizedTensor | NDArray[Any]  # codes with their scales, or floats


@dataclass(frozen=True)
class Constants:
    """What a delegate's graph computes with, by place, and the epsilons of its norms."""

    values: Mapping[str, Values]
    epsilons: Collection[float]

    def places(
        self, model: Model, used: Collection[str], dtype: str
    ) -> tuple[dict[str, str], list[str]]:
        """Source tensor -> its place, and those that are nowhere; floats are kept as `dtype`."""
        known = {_digest(value): place for place, value in self.values.items()}
        places, lost = {}, []
        for name in used:
            place = known.get(_digest(_wanted(model, name, dtype)))
            if place is None:
                lost.append(name)
            else:
                places[name] = place
        return places, lost

    def decoded(self, manifest: Mapping[str, Any]) -> Decoded:
        """Under source names, in the source's shapes."""
        shapes = {entry["name"]: tuple(entry["shape"]) for entry in manifest["floats"]}
        schemes = {e["name"]: Scheme.parse(e["scheme"]) for e in manifest["tensors"]}
        quantized, floats = {}, {}
        for name, place in manifest["engine"]["options"]["places"].items():
            value = self.values.get(place)
            if isinstance(value, QuantizedTensor):
                quantized[name] = as_named(value, schemes.get(name))
            elif value is not None:
                floats[name] = _shaped(np.asarray(value, np.float32), shapes.get(name))
        return Decoded(quantized, floats, self._facts())

    def _facts(self) -> dict[str, float]:
        if not self.epsilons:
            return {}
        spread = max(self.epsilons) - min(self.epsilons)
        return {"norm_eps": max(self.epsilons), "norm_eps_spread": spread}


def joined(parts: Collection[Constants]) -> Constants:
    """Those of all delegates of a file."""
    values = {place: value for part in parts for place, value in part.values.items()}
    return Constants(values, {epsilon for part in parts for epsilon in part.epsilons})


def _wanted(model: Model, name: str, dtype: str) -> Values:
    if name in model.quantized:
        return model.quantized[name]
    return model.dense(name).astype(dtype)


def _digest(value: Values) -> str:
    """By content alone: a file keeps equal tensors once, and vectors in shapes of its own."""
    if isinstance(value, QuantizedTensor):
        return replace(value, scheme=Scheme(value.scheme.bits, 0)).digest("")
    return float_digest("", np.asarray(value, np.float32).reshape(-1), "")


def as_named(value: QuantizedTensor, scheme: Scheme | None) -> QuantizedTensor:
    """A row of one group and a row with one scale are written alike: the manifest's word for it."""
    if scheme is None or scheme.bits != value.scheme.bits or value.scales.shape[1] != 1:
        return value
    whole = scheme.group_size in (0, value.codes.shape[1])
    return replace(value, scheme=scheme) if whole else value


def _shaped(values: Float32, shape: tuple[int, ...] | None) -> Float32:
    return values.reshape(shape) if shape is not None and values.size == np.prod(shape) else values
