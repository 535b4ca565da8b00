"""Codes as constants that the engine keeps compressed: Constant, Convert, Multiply (, Reshape).

OpenVINO's opset13; its CPU plug-in recognizes the pattern in front of MatMul and Gather and reads
the codes as they are. Groups: codes i4 or i8 [out, groups, group], scales float16 [out, groups, 1];
whole rows: [out, in] and [out, 1], a convolution's [out, in / groups, ...] and [out, 1, ...].
i4 holds two's complement, the even element in the low nibble.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from edgecompile.backends import packing
from edgecompile.backends.joining import CODES, JOIN, SCALES
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import QuantizedTensor, Scheme

SMALLEST_MAPPED = 1 << 16  # bytes
SIGNS = 0x88  # of both nibbles: turns code + 8 into two's complement

TYPES = {4: ov.Type.i4, 8: ov.Type.i8}


class Constants:
    """Constants of a graph that is not written yet: large ones lie in a scratch file, mapped.

    The engine does not keep the mapped memory alive: this object must outlive the graph.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        self._file = scratch / "constants" if scratch else None
        self._end = 0
        self._kept: list[NDArray[Any]] = []
        self.rows = constant(np.array([0, -1], np.int64), "rows")  # joins a row's groups

    def add(self, array: NDArray[Any], name: str, kind: ov.Type | None = None,
            shape: Sequence[int] | None = None) -> ov.Node:  # fmt: skip
        """A constant of the array's bytes; `kind` and `shape` where numpy lacks the type."""
        values = np.asarray(array, order="C")
        if self._file is None or values.nbytes < SMALLEST_MAPPED:
            mapped, shared = values, False
        else:
            mapped, shared = self._mapped(values), True
        if kind is None:
            return named(ops.constant(mapped, shared_memory=shared), name)
        tensor = ov.Tensor(mapped, ov.Shape(shape or values.shape), kind)
        return named(ops.constant(tensor, shared_memory=shared), name)

    def _mapped(self, values: NDArray[Any]) -> NDArray[Any]:
        assert self._file is not None
        with self._file.open("ab") as stream:
            stream.write(values.data)
        start, self._end = self._end, self._end + values.nbytes
        self._kept.append(np.memmap(self._file, values.dtype, "c", start, values.shape))
        return self._kept[-1]


def refusal(scheme: Scheme, columns: int) -> str:
    """Why codes on that scheme have no form here; empty if they have one."""
    if scheme.bits not in TYPES:
        return f"{scheme.bits} bits"
    if scheme.bits == 4 and columns % 2:
        return f"4 bits and {columns} columns, an odd number"
    return ""


def factors_refused(name: str, found: str) -> UnsupportedError:
    """A weight whose inputs take factors (quantize_smooth), where there is no place for them."""
    return UnsupportedError(
        name, f"its inputs take factors before the product, but {found}", "one product of its own",
        "--set quantize.factors=false, or another quantize.method",
    )  # fmt: skip


def named(node: ov.Node, name: str) -> ov.Node:
    """The node under that name in the file."""
    node.set_friendly_name(name)
    return node


def constant(array: NDArray[Any], name: str) -> ov.Node:
    """A constant with memory of its own."""
    return named(ops.constant(np.asarray(array, order="C"), shared_memory=False), name)


def codes_array(tensor: QuantizedTensor, name: str) -> NDArray[Any]:
    """What the file holds of the codes: int8 [out, in], or nibbles uint8 [out, in / 2]."""
    scheme, columns = tensor.scheme, tensor.codes.shape[1]
    if reason := refusal(scheme, columns):
        raise UnsupportedError(
            name, reason, "4 bits, or 8", f"--set 'quantize.skip=[\"{name}\"]', or bits = 8"
        )
    if scheme.bits == 8:
        return tensor.codes
    return packing.pack(tensor.codes, 4) ^ np.uint8(SIGNS)


def unpacked(stored: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Inverse of `codes_array` at 4 bits: int8 [rows, columns] of nibbles [rows, columns / 2]."""
    return packing.unpack(stored ^ np.uint8(SIGNS), 4)


def kernels(
    name: str, tensor: QuantizedTensor, shape: Sequence[int], constants: Constants
) -> ov.Node:
    """A float32 [out, in / groups, ...] in the graph; the engine computes it as it compiles."""
    scales = tensor.scales.astype(np.float16).reshape(-1, *[1] * (len(shape) - 1))
    codes = constants.add(codes_array(tensor, name).reshape(shape), name + CODES, ov.Type.i8)
    return named(_product(codes, constants.add(scales, name + SCALES), name), name)


def _product(codes: ov.Node, scales: ov.Node, name: str) -> ov.Node:
    return ops.multiply(
        named(ops.convert(codes, ov.Type.f32), f"{name}.codes.float"),
        named(ops.convert(scales, ov.Type.f32), f"{name}.scales.float"),
    )


def weight(
    names: Sequence[str], tensors: Sequence[QuantizedTensor], constants: Constants
) -> ov.Node:
    """A float32 [out, in] in the graph: the tensors' codes, rows below rows; one scheme."""
    name, scheme = JOIN.join(names), tensors[0].scheme
    columns = tensors[0].codes.shape[1]
    rows = sum(len(tensor.codes) for tensor in tensors)
    groups = scheme.groups(columns)
    split = [rows, groups, columns // groups] if scheme.group_size else [rows, columns]
    parts = [codes_array(tensor, one) for one, tensor in zip(names, tensors, strict=True)]
    whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
    codes = constants.add(whole, name + CODES, TYPES[scheme.bits], split)
    scales = np.concatenate([tensor.scales for tensor in tensors]).astype(np.float16)
    scales = scales.reshape([*split[:-1], 1])
    value = _product(codes, constants.add(scales, name + SCALES), name)
    if not scheme.group_size:
        return named(value, name)
    return named(ops.reshape(named(value, f"{name}.groups"), constants.rows, True), name)
