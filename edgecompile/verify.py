"""`edgecompile verify`: hashes of sealed files, and whether two bundles hold the same weights."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    decoded = [_decoded(bundle) for bundle in (first, second)]
    names = sorted(decoded[0].keys() | decoded[1].keys())
    differences = [
        text for name in names if (text := _difference(name, decoded[0], decoded[1]))
    ]  # fmt: skip
    digests = [weights_digest((n, t.digest(n)) for n, t in d.items()) for d in decoded]
    return Comparison(
        (str(first), str(second)), (digests[0], digests[1]), len(names), tuple(differences)
    )


def _decoded(bundle: Path) -> Mapping[str, QuantizedTensor]:
    return sealed.decode(bundle, read_manifest(bundle).data).quantized


def _difference(
    name: str, first: Mapping[str, QuantizedTensor], second: Mapping[str, QuantizedTensor]
) -> str:
    if name not in first or name not in second:
        return f"{name}: only in the {'second' if name not in first else 'first'} bundle"
    one, other = first[name], second[name]
    if one.scheme != other.scheme or one.codes.shape != other.codes.shape:
        found = f"{other.scheme.name} {other.codes.shape}"
        return f"{name}: {one.scheme.name} {one.codes.shape}, {found}"
    for what in ("codes", "scales"):
        places = np.argwhere(getattr(one, what) != getattr(other, what))
        if len(places):
            row, column = places[0]
            values = getattr(one, what)[row, column], getattr(other, what)[row, column]
            return f"{name}: {len(places)} {what} differ, first at [{row}, {column}]: {values}"
    return ""
