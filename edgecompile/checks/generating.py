"""Decoders: the next token's distribution in windows of text."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, need
from edgecompile.metrics import Measurement, logits
from edgecompile.metrics.logits import TokenRows
from edgecompile.report import Row
from edgecompile.text.source_tokens import Piece, pieces

Pieces = Sequence[Piece]
Steps = Iterator[tuple[str, tuple[Measurement, ...]]]
CHUNK = 64  # rows of logits at a time


def rows(comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Row]:
    """KL divergence, perplexity and top-1 agreement on windows of text; then the same codes."""
    options = comparison.options
    size = min(options.window, context - 1)
    whole = pieces(need(comparison.source_tokens), texts, size, options.tokens)
    few = whole[: max(1, options.fidelity_tokens // size)]
    for step, measurements in _way(comparison)(comparison, whole, few):
        for measured in measurements:
            if step == QUALITY:
                yield comparison.judge(step, measured)
            elif measured.metric == "kl_mean":
                yield comparison.judge(step, replace(measured, metric="export_kl_mean"))


def is_streamed(comparison: Comparison) -> bool:
    """Whether a decoder's float32 weights would be too much at once: then block by block."""
    large = 4 * comparison.model.parameters > comparison.options.stream_above
    return large and comparison.old_ids is None


def _way(comparison: Comparison) -> Callable[[Comparison, Pieces, Pieces], Steps]:
    if is_streamed(comparison):
        from edgecompile.checks.streamed import compare

        return compare
    return _compare_whole


def _compare_whole(comparison: Comparison, whole: Pieces, few: Pieces) -> Steps:
    yield QUALITY, _compare(comparison, whole, "compare with the source")
    if not comparison.against_codes:
        return
    with comparison.same_codes():
        yield EXPORT, _compare(comparison, few, "compare with the same codes")


def _compare(comparison: Comparison, whole: Pieces, what: str) -> tuple[Measurement, ...]:
    def run(part: Pieces) -> list[TokenRows]:
        return [_window(comparison, piece) for piece in part]

    found = comparison.each(what, whole, lambda piece: piece.ids.tobytes(), run, 1)
    return logits.measure(zip(found, documents(whole), strict=True))


def _window(comparison: Comparison, piece: Piece) -> TokenRows:
    ids = piece.ids.tolist()
    source = comparison.reference.logit_chunks(ids, CHUNK)
    return logits.compared_window(piece.ids, source, comparison.worker.logits(ids))


def documents(whole: Pieces) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Of which document each token is; what one has in two windows counts as two."""
    for number, piece in enumerate(whole):
        yield (number << 32) + piece.documents
