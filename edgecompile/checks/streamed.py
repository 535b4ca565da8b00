"""A decoder too large for memory beside its bundle: one block of the reference at a time.

The bundle's logits come first and lie in a file, so that engine and reference are never in memory
together.
"""
from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from edgecompile import cache
from edgecompile.calibration.streamed import SealedWeights, Stream
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.checks.generating import Pieces, Steps, documents
from edgecompile.checks.stored import ROWS, StoredLogits
from edgecompile.errors import ResourceError
from edgecompile.metrics import Measurement, logits
from edgecompile.model import Model


def compare(comparison: Comparison, pieces: Pieces, few: Pieces) -> Steps:
    """The bundle on windows of text against the source, then `few` against its codes.

    `few` are the first of `pieces`. Closes the comparison's worker once it has answered.
    """
    model, progress = comparison.model, comparison.progress
    parent = cache.folder() / "checks"
    parent.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(parent, model, pieces)
    with cache.private_folder(parent, "streamed") as folder:
        found = _answers(comparison, pieces, folder)
        comparison.worker.close()
        source = Stream(model, folder, progress, "compare with the source")
        yield QUALITY, _measure(source, pieces, found)
        if not comparison.against_codes:
            return
        sealed = SealedWeights(model.weights, comparison.decoded, comparison.replaced)
        codes = Stream(
            dataclasses.replace(model, weights=sealed), folder, progress,
            "compare with the same codes", (*comparison.decoded.quantized, *comparison.replaced),
        )  # fmt: skip
        yield EXPORT, _measure(codes, few, found)


def _refuse_full_disk(folder: Path, model: Model, pieces: Pieces) -> None:
    """A full disk under a memory map would be a signal and no error."""
    config = model.common_config
    widths = int(config.get("vocab_size", 0)) + 2 * int(config.get("hidden_size", 0))
    tokens = sum(len(piece.ids) for piece in pieces)
    needed, free = 4 * tokens * widths, shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            str(folder), f"{free / 1e6:.0f} MB free",
            f"about {needed / 1e6:.0f} MB for the check's logits and activations",
            "free space, name another folder with EDGECOMPILE_CACHE, or set fewer check.tokens",
        )  # fmt: skip


def _answers(comparison: Comparison, pieces: Pieces, folder: Path) -> StoredLogits:
    found = StoredLogits(folder / "logits")
    for done, piece in enumerate(pieces):
        comparison.progress("run the bundle", done, len(pieces))
        found.add(done, comparison.worker.logits(piece.ids.tolist()))
    comparison.progress("run the bundle", len(pieces), len(pieces))
    return found


def _measure(
    reference: Stream, pieces: Pieces, found: StoredLogits
) -> tuple[Measurement, ...]:
    """Measurements of the found logits beside the reference's."""
    windows = [piece.ids for piece in pieces]
    rows = [
        logits.compared_window(windows[index], source, found.read(index))
        for index, source in enumerate(reference.logits(windows, ROWS))
    ]
    return logits.measure(zip(rows, documents(pieces), strict=True))
