"""Read codes, scales and floats back from the sealed file of tensors."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends import Decoded, Extent, ReadWhenAsked, packing
from edgecompile.backends.aotinductor_graph.coded import INPUTS, WEIGHTS
from edgecompile.backends.joining import CODES, SCALES
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.runtime import tensor_file
from edgecompile.runtime.aotinductor_engine import TENSORS


def decode(folder: Path, manifest: Mapping[str, Any]) -> Decoded:
    """Tensors under their source names; schemes are the file's own, not the manifest's."""
    arrays = tensor_file.read(folder / TENSORS)
    shared = manifest["engine"]["options"].get("shared", {})
    names = [name.removeprefix(WEIGHTS) for name in arrays if name.startswith(WEIGHTS)]
    held = {*names, *(name for name, holder in shared.items() if holder in names)}
    coded = {name.removesuffix(CODES) for name in names if name.endswith(CODES)}
    coded |= {name for name, holder in shared.items() if holder in coded}
    parts = {name + suffix for name in coded for suffix in (CODES, SCALES, INPUTS)}

    def quantized(name: str) -> QuantizedTensor:
        return _tensor(shared.get(name, name), arrays)

    def dense(name: str) -> Float32:
        return np.array(arrays[WEIGHTS + shared.get(name, name)], np.float32)

    floats = sorted(held - parts - coded)
    return Decoded(ReadWhenAsked(sorted(coded), quantized), ReadWhenAsked(floats, dense), {})


def extents(folder: Path) -> Iterator[Extent]:
    """Every tensor, at its place in the file."""
    for name, array in tensor_file.read(folder / TENSORS).items():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        yield Extent(name, (TENSORS, data.ctypes.data), data)


def _tensor(name: str, arrays: Mapping[str, NDArray[Any]]) -> QuantizedTensor:
    codes, scales = arrays[WEIGHTS + name + CODES], arrays.get(WEIGHTS + name + SCALES)
    bits = {"int8": 8, "uint8": 4}.get(codes.dtype.name, 0)
    if not bits or codes.ndim != 2 or scales is None or scales.shape[:1] != codes.shape[:1]:
        found = f"{codes.dtype} {codes.shape}, scales {None if scales is None else scales.shape}"
        raise BadInputError(name, found, "int8 or pairs of int4, a scale for each group or row")
    values = packing.unpack(np.array(codes), 4) if bits == 4 else np.array(codes)
    group = values.shape[1] // scales.shape[1] if scales.ndim == 2 else 0
    kept = np.array(scales, np.float32).reshape(len(values), -1)
    inputs = arrays.get(WEIGHTS + name + INPUTS)
    factors = None if inputs is None else np.array(inputs, np.float32)
    return QuantizedTensor(Scheme(bits, group), values, kept, factors)
