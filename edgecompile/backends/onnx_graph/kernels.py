"""Codes of convolutions: int8 as the source's weight is shaped, times a scale an output channel.

Cast and Mul, not DequantizeLinear: the engine computes the former once, as it opens the file, and
then fuses batch norms and activations as it does with floats; the latter it keeps for integer
kernels and runs in each call (three times as slow on EfficientNet-Lite0, docs/engines.md).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgecompile.backends.joining import CODES, SCALES
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import QuantizedTensor, Scheme

VALUES, FLOATS = ".values", ".codes.float"
SCHEME = Scheme(8, 0)


def nodes(name: str) -> list[onnx.NodeProto]:
    """`<name>.values` float32 [out, in / groups, ...]."""
    cast = helper.make_node(
        "Cast", [name + CODES], [name + FLOATS], name + FLOATS, to=onnx.TensorProto.FLOAT
    )
    scaled = helper.make_node("Mul", [name + FLOATS, name + SCALES], [name + VALUES], name + VALUES)
    return [cast, scaled]


def initializers(
    name: str, tensor: QuantizedTensor, shape: Sequence[int]
) -> list[onnx.TensorProto]:
    """`<name>.codes` int8 [out, in / groups, ...] and `<name>.scales` float32 [out, 1, ...]."""
    scales = tensor.scales.reshape(-1, *[1] * (len(shape) - 1))
    return [
        numpy_helper.from_array(tensor.codes.reshape(shape), name + CODES),
        numpy_helper.from_array(np.asarray(scales, order="C"), name + SCALES),
    ]


def tensor(
    codes: NDArray[Any], scales: NDArray[Any], entry: Mapping[str, Any]
) -> QuantizedTensor:
    """Inverse of `initializers`; BadInputError where the shapes are not the manifest's."""
    shape = tuple(entry["shape"])
    expected = (shape[0], *[1] * (len(shape) - 1))
    if codes.dtype != np.int8 or codes.shape != shape or scales.shape != expected:
        found = f"{codes.dtype} {codes.shape}, scales {scales.shape}"
        raise BadInputError(entry["name"] + CODES, found, f"int8 {shape}, scales {expected}")
    rows = np.array(codes).reshape(shape[0], -1)
    return QuantizedTensor(SCHEME, rows, np.array(scales, np.float32).reshape(-1, 1))
