"""Find a model's tensors among the initializers of an exported graph, by content.

Exporters rename, transpose and merge; equal bytes are the one thing that they keep. So no table
of names is needed, and whatever an exporter changed shows up as a tensor without an owner.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgecompile.backends.joining import TRANSPOSED
from edgecompile.model import Model

SMALLEST_MATCHED = 8  # elements: shorter constants (axes, scalars) are the graph's own


@dataclass(frozen=True)
class Match:
    """An initializer that holds the source tensor(s) `names`; `transposed`: as [in, out]."""

    names: tuple[str, ...]
    transposed: bool


def stored_name(found: Match) -> str:
    """The initializer's name in the file."""
    return found.names[0] + TRANSPOSED * found.transposed


def initializer_array(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """The initializer's values, memory-mapped where they are external."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    where = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(
        folder / where["location"], dtype, "r", int(where.get("offset", 0)), tuple(tensor.dims)
    )


def fingerprint(array: NDArray[Any]) -> str:
    """SHA-256 over shape and float32 bytes."""
    values = np.ascontiguousarray(array, np.float32)
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()


def match(graph: onnx.GraphProto, folder: Path, model: Model) -> dict[str, Match]:
    """Initializer name -> the source tensors that it holds, as they are or transposed.

    The graph was exported with the floats that a pass replaced in place of the source's.
    Source tensors with equal bytes are given to their initializers in order; what is left over
    goes to the last of them.
    """
    owners = _source_fingerprints(model, _shapes(graph.initializer))
    holders: dict[tuple[str, bool], list[str]] = {}
    for tensor in graph.initializer:
        found = _owner(tensor, folder, owners)
        if found is not None:
            holders.setdefault(found, []).append(tensor.name)
    matches: dict[str, Match] = {}
    for (key, transposed), names in holders.items():
        sources = owners[key]
        share = [sources[index : index + 1] for index in range(len(names) - 1)]
        for name, part in zip(names, [*share, sources[len(names) - 1 :]], strict=True):
            if part:
                matches[name] = Match(tuple(part), transposed)
    return matches


def _shapes(tensors: Iterable[onnx.TensorProto]) -> set[tuple[int, ...]]:
    shapes = {tuple(tensor.dims) for tensor in tensors}
    return shapes | {shape[::-1] for shape in shapes}


def _source_fingerprints(
    model: Model, shapes: set[tuple[int, ...]]
) -> Mapping[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for name, info in model.weights.infos.items():
        if info.shape in shapes and info.dtype.startswith(("F", "B")) and info.dtype != "BOOL":
            replaced = name in model.replaced
            values = model.replaced[name] if replaced else model.weights.float32(name)
            owners.setdefault(fingerprint(values), []).append(name)
    return owners


def _owner(
    tensor: onnx.TensorProto, folder: Path, owners: Mapping[str, list[str]]
) -> tuple[str, bool] | None:
    if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_MATCHED:
        return None
    array = initializer_array(tensor, folder)
    key = fingerprint(array)
    if key in owners:
        return key, False
    if array.ndim == 2:
        key = fingerprint(array.T)
        if key in owners:
            return key, True
    return None
