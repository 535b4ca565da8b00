"""Faults of the runtime that travels in the bundle."""

from __future__ import annotations

from pathlib import Path

from tests.faults.edits import runtime
from tests.faults.planting import fault
from tests.faults.twins import Clean, Twin

ENCODER = Twin("encoder", "openvino", "rtn", 8)


@fault("mask ignored", "runtime", ENCODER, "export")
def mask_ignored(bundle: Path, _: Clean, __: float) -> None:
    """Padding is read like any token."""
    old = "mask[row, : len(row_ids)] = 1"
    runtime(bundle, "named_inputs.py", old, "mask[row] = 1")


@fault("one text is not as a batch", "runtime", ENCODER, "export",
       missed="the check asks for many texts at once: ask some of them alone too")
def alone_differs(bundle: Path, _: Clean, __: float) -> None:
    """A text alone loses its last token; in a batch it does not."""
    old = "    return engine.encode([ids[row] for row in rows], chosen)"
    new = "    if len(ids) == 1:\n        ids = [ids[0][:-1]]\n" + old
    runtime(bundle, "batching.py", old, new)
