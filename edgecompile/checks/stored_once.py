"""Step 0, of the very bytes: no tensor of any size that counts is in the engine's files twice."""
from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile.backends import Extent
from edgecompile.checks.sealed import STEP, backend_of
from edgecompile.metrics import Measurement
from edgecompile.report import Row, exact, judged

METRIC = "duplicate_tensors"
DUPLICATES = "duplicates"  # the name that allows them
LARGEST = 1_000_000  # bytes of a tensor that may be there twice
BLOCK = 4 << 20  # bytes hashed at a time


def rows(bundle: Path, manifest: Mapping[str, Any], allow: Sequence[str]) -> Iterator[Row]:
    """How many tensors over 1 MB hold the same bytes as another, with both names."""
    found = backend_of(manifest).extents(bundle / "model")
    large = {extent.place: extent for extent in found if extent.data.nbytes > LARGEST}
    pairs = [
        f"{one.name} = {other.name} ({other.data.nbytes / 1e6:.1f} MB)"
        for one, other in duplicates(large.values())
    ]
    if DUPLICATES in allow:
        count = Measurement(METRIC, float(len(pairs)), "", "lower", len(large))
        yield judged(STEP, count, None, f"allowed by name: {DUPLICATES}")
        return
    row = exact(STEP, METRIC, pairs, len(large))
    way_out = f": store it once (tie the two in the model), or --allow {DUPLICATES}"
    yield dataclasses.replace(row, detail=row.detail + way_out) if pairs else row


def duplicates(extents: Iterable[Extent]) -> Iterator[tuple[Extent, Extent]]:
    """Each extent that holds what an earlier one does; only those of one size are read."""
    sizes: dict[int, list[Extent]] = {}
    for extent in extents:
        sizes.setdefault(extent.data.nbytes, []).append(extent)
    for alike in sizes.values():
        first: dict[str, Extent] = {}
        for extent in alike if len(alike) > 1 else ():
            known = first.setdefault(_digest(extent), extent)
            if known is not extent:
                yield known, extent


def _digest(extent: Extent) -> str:
    whole = hashlib.sha256()
    for start in range(0, extent.data.nbytes, BLOCK):
        whole.update(np.ascontiguousarray(extent.data[start : start + BLOCK]).data)
    return whole.hexdigest()
