"""Codes and scales as ExecuTorch's kernels and XNNPACK read them, and back."""
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends import packing
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme

EMBEDDING_CALL = {
    4: "quantized_decomposed::embedding_4bit.out", 8: "quantized_decomposed::embedding_byte.out",
}  # fmt: skip


def linear(tensor: QuantizedTensor, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes int8 [out, in] or uint8 [out, in / 2], scales float32 [out] or bfloat16 [out, groups].

    4 bits: code + 8, the even column in the low nibble. bfloat16 is given as uint16.
    """
    if tensor.inputs is not None:
        raise UnsupportedError(
            name, "its inputs take factors before the product", "none for XNNPACK",
            "choose another quantize.method",
        )  # fmt: skip
    codes = tensor.codes if tensor.scheme.bits == 8 else packing.pack(tensor.codes, 4)
    if not tensor.scheme.group_size:
        return codes, np.ascontiguousarray(tensor.scales[:, 0])
    return codes, bfloat16(tensor.scales, name)


def linear_codes(codes: NDArray[Any], scales: NDArray[Any], scheme: Scheme) -> QuantizedTensor:
    """Inverse of `linear` for arrays of its dtypes, whatever their shape below `out`."""
    rows = len(scales)
    if scheme.bits == 8:
        unpacked = codes.view(np.int8).reshape(rows, -1)
    else:
        unpacked = packing.unpack(codes.view(np.uint8).reshape(rows, -1), 4)
    if scheme.group_size:
        wide = scales.astype(np.uint32) << np.uint32(16)
        return QuantizedTensor(scheme, unpacked, wide.view(np.float32).reshape(rows, -1))
    return QuantizedTensor(scheme, unpacked, scales.astype(np.float32).reshape(rows, 1))


def bfloat16(scales: Float32, name: str) -> NDArray[np.uint16]:
    """The upper halves of float32 values whose lower halves are zero."""
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    if (bits & np.uint32(0xFFFF)).any():
        found = "a scale with more than 8 significant bits"
        raise UnsupportedError(name, found, "scales that are exact in bfloat16")
    return (bits >> np.uint32(16)).astype(np.uint16)


def embedding(
    tensor: QuantizedTensor, *, as_linear: bool = False
) -> tuple[NDArray[Any], Float32]:
    """Codes int8 [rows, columns] or uint8 [rows, columns / 2], scales [rows] or [rows, groups].

    4 bits: code + 8, the even column in the high nibble; in the low one `as_linear`, for a table
    that XNNPACK multiplies with too. Its look-up then gives every two neighbours swapped.
    """
    scales = tensor.scales if tensor.scheme.group_size else tensor.scales[:, 0]
    scales = np.ascontiguousarray(scales)
    if tensor.scheme.bits == 8:
        return np.ascontiguousarray(tensor.codes), scales
    packed = packing.pack(tensor.codes, 4)
    return packed if as_linear else _turned(packed), scales


def _turned(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both nibbles of each byte in the other's place."""
    return (packed << np.uint8(4)) | (packed >> np.uint8(4))


def embedding_codes(
    codes: NDArray[Any], scales: Float32, columns: int, *, as_linear: bool = False
) -> QuantizedTensor:
    """Inverse of `embedding`; `codes` are int8, or uint8 for 4 bits."""
    unpacked: Int8 = codes.view(np.int8)
    bits = 8
    if codes.dtype == np.uint8:
        bits, unpacked = 4, packing.unpack(codes if as_linear else _turned(codes), 4)
    grouped = scales.ndim == 2
    scheme = Scheme(bits, columns // scales.shape[1] if grouped else 0)
    return QuantizedTensor(scheme, unpacked, scales.reshape(len(scales), -1))
