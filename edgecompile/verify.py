"""`edgecompile verify`: hashes of sealed files, and whether two bundles hold the same weights."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.backends import Decoded
from edgecompile.checks import sealed
from edgecompile.checks.limits import own_types
from edgecompile.numerics.schemes import QuantizedTensor, float_digest, weights_digest
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
    bundles = _Opened.of(first), _Opened.of(second)
    names = sorted(bundles[0].names | bundles[1].names)
    pairs = [_compared(name, *bundles) for name in names]  # a tensor of each in memory at a time
    digests = [
        weights_digest((n, p.digests[i]) for n, p in zip(names, pairs, strict=True) if p.digests[i])
        for i in (0, 1)
    ]
    different = tuple(pair.difference for pair in pairs if pair.difference)
    return Comparison((str(first), str(second)), (digests[0], digests[1]), len(names), different)


@dataclass(frozen=True)
class _Opened:
    """A sealed bundle's tensors: codes, and types of the engine's own by name."""

    decoded: Decoded
    own: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Path) -> _Opened:
        manifest = read_manifest(bundle).data
        return cls(sealed.decode(bundle, manifest), own_types(manifest))

    @property
    def names(self) -> set[str]:
        return self.decoded.quantized.keys() | self.own.keys()

    def kind(self, name: str) -> str:
        """The engine's own type, or that it is a tensor on our grid."""
        return self.own.get(name, "codes")

    def digest(self, name: str) -> str:
        """Of codes and scales, or of the values of an engine's own type; empty if not there."""
        if name in self.decoded.quantized:
            return self.decoded.quantized[name].digest(name)
        if name in self.own and name in self.decoded.floats:
            return float_digest(name, self.decoded.floats[name], self.own[name])
        return ""


@dataclass(frozen=True)
class _Pair:
    """Digests of one tensor in both bundles, empty where it is not there, and what differs."""

    digests: tuple[str, str]
    difference: str


def _compared(name: str, first: _Opened, second: _Opened) -> _Pair:
    codes = first.decoded.quantized, second.decoded.quantized
    if name in codes[0] and name in codes[1]:
        one, other = codes[0][name], codes[1][name]
        digest, text = one.digest(name), _difference(one, other)
        return _Pair((digest, other.digest(name) if text else digest), text and f"{name}: {text}")
    digests = first.digest(name), second.digest(name)
    if not all(digests):
        text = f"only in the {'first' if digests[0] else 'second'} bundle"
    elif first.kind(name) != second.kind(name):
        text = f"{first.kind(name)}, {second.kind(name)}"
    else:
        text = "" if digests[0] == digests[1] else f"values of {first.kind(name)} differ"
    return _Pair(digests, text and f"{name}: {text}")


def _difference(one: QuantizedTensor, other: QuantizedTensor) -> str:
    if one.scheme != other.scheme or one.codes.shape != other.codes.shape:
        found = f"{other.scheme.name} {other.codes.shape}"
        return f"{one.scheme.name} {one.codes.shape}, {found}"
    return sealed.first_difference(one, other)
