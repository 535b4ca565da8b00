"""Embeddings of texts: cosine, rank correlation, and what a search of them finds."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgecompile.checks import alone, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, Ids, need
from edgecompile.metrics import Measurement, cosine, error, rank, recall
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row, judged


def rows(comparison: Comparison, texts: Sequence[str]) -> Iterator[Row]:
    """Cosine and rank correlation on texts; then the least cosine to the same codes in torch."""
    options = comparison.options
    texts = texts[: options.texts]
    ids = need(comparison.source_tokens).encode(texts)
    found = in_batches(comparison, texts)
    source = embed(comparison, ids, "embed with the source")
    for measured in cosine.measure(cosine.cosines(source, found)):
        yield comparison.judge(QUALITY, measured)
    yield comparison.judge(QUALITY, rank.measure(source, found))
    if len(texts) > recall.NEAREST:
        yield judged(QUALITY, recall.of_texts(source, found))
    if not comparison.against_codes:
        return
    few = slice(options.fidelity_texts)
    with comparison.same_codes():
        exact = embed(comparison, ids[few], "embed with the same codes")
    lowest = cosine.measure(cosine.cosines(exact, found[few]))[2]
    yield comparison.judge(EXPORT, replace(lowest, metric="export_cosine_min"))
    lengths = (np.linalg.norm(rows, axis=1) for rows in (exact, found[few]))
    value = error.relative_error(*lengths)  # which cosines do not see
    measured = Measurement("export_length_error", value, "", "lower", len(exact))
    yield comparison.judge(EXPORT, measured)
    yield from alone.rows(comparison, texts, found, comparison.worker.embed)
    graph = comparison.each("run the graph", ids[few], tuple, lambda part: list(
        comparison.worker.embed_ids(part)
    ))  # fmt: skip
    yield stages.alike(stages.QUANTIZED, source[few], exact)
    yield stages.alike(stages.GRAPH, source[few], np.stack(graph))
    yield stages.alike(stages.RUNTIME, source[few], found[few])


def in_batches(comparison: Comparison, texts: Sequence[str]) -> Float32:
    """The bundle's vectors [n, dim] of texts."""
    found = comparison.each("embed with the bundle", texts, str, lambda part: list(
        comparison.worker.embed(part)
    ))  # fmt: skip
    return np.stack(found) if found else np.zeros((0, 1), np.float32)


def embed(comparison: Comparison, ids: Ids, what: str) -> Float32:
    """The source's answers [n, width] to texts of token ids."""
    found = comparison.each(what, ids, tuple, lambda part: list(comparison.reference.embed(part)))
    return np.stack(found) if found else np.zeros((0, 1), np.float32)
