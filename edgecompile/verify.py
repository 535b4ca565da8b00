"""`edgecompile verify`: hashes of sealed files, and whether two bundles hold the same weights."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.checks import sealed
from edgecompile.numerics.schemes import QuantizedTensor, weights_digest
from edgecompile.runtime.manifest import read_manifest
from edgecompile.runtime.threads import physical_cores
from edgecompile.runtime.verify import verify


@dataclass(frozen=True)
class Comparison:
    """Two bundles, decoded: their digests and the tensors that differ, by source name."""

    bundles: tuple[str, str]
    digests: tuple[str, str]
    tensors: int
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "bundles": list(self.bundles), "digests": list(self.digests),
            "tensors": self.tensors, "same": not self.differences,
            "differences": list(self.differences),
        }  # fmt: skip

    def text(self) -> str:
        """A few lines for a person."""
        if not self.differences:
            return (
                f"same weights: {self.tensors} tensors, every code and scale equal\n"
                f"weights digest {self.digests[0]}"
            )
        head = f"{len(self.differences)} of {self.tensors} tensors differ:"
        lines = [head, *self.differences[:20]]
        return "\n  ".join(lines)


def verify_files(bundle: Path) -> None:
    """Every file's SHA-256 against the manifest; BadInputError names the file and chunk."""
    verify(bundle, read_manifest(bundle), "always", physical_cores())


def compare(first: Path, second: Path) -> Comparison:
    """Decode both sealed bundles, whatever their engines, and compare codes and scales."""
    bundles = _decoded(first), _decoded(second)
    names = sorted(bundles[0].keys() | bundles[1].keys())
    pairs = [_compared(name, *bundles) for name in names]  # a tensor of each in memory at a time
    digests = [
        weights_digest((n, p.digests[i]) for n, p in zip(names, pairs, strict=True) if p.digests[i])
        for i in (0, 1)
    ]
    different = tuple(pair.difference for pair in pairs if pair.difference)
    return Comparison((str(first), str(second)), (digests[0], digests[1]), len(names), different)


def _decoded(bundle: Path) -> Mapping[str, QuantizedTensor]:
    return sealed.decode(bundle, read_manifest(bundle).data).quantized


@dataclass(frozen=True)
class _Pair:
    """Digests of one tensor in both bundles, empty where it is not there, and what differs."""

    digests: tuple[str, str]
    difference: str


def _compared(
    name: str, first: Mapping[str, QuantizedTensor], second: Mapping[str, QuantizedTensor]
) -> _Pair:
    one, other = first.get(name), second.get(name)
    digest = one.digest(name) if one else ""
    if one is None or other is None:
        where = "second" if one is None else "first"
        found = other.digest(name) if other else ""
        return _Pair((digest, found), f"{name}: only in the {where} bundle")
    text = _difference(one, other)
    if not text:
        return _Pair((digest, digest), "")
    return _Pair((digest, other.digest(name)), f"{name}: {text}")


def _difference(one: QuantizedTensor, other: QuantizedTensor) -> str:
    if one.scheme != other.scheme or one.codes.shape != other.codes.shape:
        found = f"{other.scheme.name} {other.codes.shape}"
        return f"{one.scheme.name} {one.codes.shape}, {found}"
    return sealed.first_difference(one, other)
