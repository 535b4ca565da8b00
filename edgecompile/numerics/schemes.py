"""Schemes and codes: the one grid that every engine's file encodes bit for bit."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]

SMALLEST_SCALE = np.float32(2.0**-17)  # float16's subnormals below lose bits


@dataclass(frozen=True)
class Scheme:
    """Symmetric codes of `bits` in [-2^(bits-1), 2^(bits-1)-1]; `group_size` columns share a scale.

    `group_size` 0 means that a whole row (output channel) shares one scale.
    """

    bits: int
    group_size: int

    @property
    def name(self) -> str:
        """`int4-g32`, `int8-channel`: as written in manifests and digests."""
        return f"int{self.bits}-{f'g{self.group_size}' if self.group_size else 'channel'}"

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """Inverse of `name`; raises ValueError that shows the value."""
        bits, _, group = name.removeprefix("int").partition("-")
        if bits not in ("2", "4", "8") or not (group == "channel" or group.startswith("g")):
            raise ValueError(f"{name!r} is not a scheme such as int4-g32 or int8-channel")
        return cls(int(bits), 0 if group == "channel" else int(group[1:]))

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1

    def groups(self, columns: int) -> int:
        """Number of scales in a row of `columns`; raises ValueError when they do not divide."""
        if not self.group_size:
            return 1
        if columns % self.group_size:
            raise ValueError(f"{columns} columns do not divide into groups of {self.group_size}")
        return columns // self.group_size


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight [out, in] as codes int8 [out, in] and scales float32 [out, groups], scales > 0.

    A convolution's [out, in / groups, height, width] is [out, in / groups x height x width] here.
    `inputs` float32 [in], where there are any, are factors that the layer's inputs take before the
    product (SmoothQuant without a neighbour to fold into): the codes are those of weight / inputs.
    """

    scheme: Scheme
    codes: Int8
    scales: Float32
    inputs: Float32 | None = None

    def dequantize(self) -> Float32:
        """codes * scales (* inputs), float32 [out, in].

        Exact without `inputs`, as scales have at most 8 significant bits.
        """
        out, columns = self.codes.shape
        groups = self.scales.shape[1]
        values = self.codes.reshape(out, groups, columns // groups).astype(np.float32)
        values *= self.scales[:, :, None]
        whole = values.reshape(out, columns)
        if self.inputs is not None:
            whole *= self.inputs
        return whole

    def digest(self, name: str) -> str:
        """SHA-256 over (name, shape, scheme, codes, scales, inputs) in the source's layout."""
        digest = hashlib.sha256(f"{name}|{self.codes.shape}|{self.scheme.name}|".encode())
        digest.update(np.ascontiguousarray(self.codes, np.int8).data)
        digest.update(np.ascontiguousarray(self.scales, "<f4").data)
        if self.inputs is not None:
            digest.update(b"|inputs|" + np.ascontiguousarray(self.inputs, "<f4").tobytes())
        return digest.hexdigest()


def float_digest(name: str, values: Float32, dtype: str) -> str:
    """SHA-256 over (name, shape, dtype in the file, values in float32) of a float tensor."""
    digest = hashlib.sha256(f"{name}|{values.shape}|{dtype}|".encode())
    digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()


def weights_digest(tensor_digests: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 over (name, digest) pairs, ordered by name: equal codes, equal digest."""
    digest = hashlib.sha256()
    for name, value in sorted(tensor_digests):
        digest.update(f"{name}={value}\n".encode())
    return digest.hexdigest()


def representable_scale(scale: Float32) -> Float32:
    """Round positive float32 scales to 8 significant bits, within [2^-17, 65280].

    Such a scale is exact in float16 (below 2^-17 its subnormals lose bits) and in bfloat16.
    """
    mantissa, exponent = np.frexp(np.asarray(scale, np.float32))
    rounded = np.ldexp(np.rint(mantissa * 256.0) / 256.0, exponent)
    return np.clip(rounded, SMALLEST_SCALE, np.float32(65280.0)).astype(np.float32)
