"""Embeddings of texts: cosine, rank correlation, and what a search of them finds."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgecompile.checks import alone, own, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, Ids, need
from edgecompile.checks.earlier import Earlier
from edgecompile.metrics import Measurement, cosine, error, rank, recall
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row, judged
from edgecompile.text.parts import Document


def rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Cosine and rank correlation on texts; then the least cosine to the same codes in torch."""
    documents = documents[: comparison.options.texts]
    texts = [document.text for document in documents]
    ids = need(comparison.source_tokens).encode(texts)
    found = in_batches(comparison, texts)
    source = embed(comparison, ids, "embed with the source")
    for measured in cosine.measure(cosine.cosines(source, found)):
        yield comparison.judge(QUALITY, measured)
    yield comparison.judge(QUALITY, rank.measure(source, found))
    if len(texts) > recall.NEAREST:
        yield judged(QUALITY, recall.of_texts(source, found))
    yield from own.rows(comparison, own.paired(documents, source, found))
    if comparison.against_codes:
        few = slice(comparison.options.fidelity_texts)
        yield from _same_codes(comparison, texts[few], ids[few], (source[few], found[few]))


def _same_codes(
    comparison: Comparison, texts: Sequence[str], ids: Ids, sides: tuple[Float32, Float32]
) -> Iterator[Row]:
    """Of a few texts, whose vectors [n, dim] of the source and the bundle are given."""
    source, found = sides
    with comparison.same_codes():
        exact = embed(comparison, ids, "embed with the same codes")
    lowest = cosine.measure(cosine.cosines(exact, found))[2]
    lengths = (np.linalg.norm(rows, axis=1) for rows in (exact, found))
    value = error.relative_error(*lengths)  # which cosines do not see
    longer = Measurement("export_length_error", value, "", "lower", len(exact))
    judged_rows = [
        comparison.judge(EXPORT, replace(lowest, metric="export_cosine_min")),
        comparison.judge(EXPORT, longer),
        *alone.rows(comparison, texts, found, comparison.worker.embed),
    ]
    yield from judged_rows
    with comparison.graph(any(row.verdict == "fail" for row in judged_rows)) as graph:
        engine = graph.embed_ids(ids)
    yield from stages.through(
        comparison.chain, source,
        {stages.QUANTIZED: exact, stages.GRAPH: engine, stages.RUNTIME: found},
        lambda one: embed_earlier(comparison, one, texts), stages.erring,
    )  # fmt: skip


def in_batches(comparison: Comparison, texts: Sequence[str]) -> Float32:
    """The bundle's vectors [n, dim] of texts."""
    found = comparison.each("embed with the bundle", texts, str, lambda part: list(
        comparison.worker.embed(part)
    ))  # fmt: skip
    return np.stack(found) if found else np.zeros((0, 1), np.float32)


def embed_earlier(comparison: Comparison, one: Earlier, texts: Sequence[str]) -> Float32:
    """An earlier model's answers [n, width] to texts, in its own tokens."""

    def run(part: Sequence[str]) -> list[Float32]:
        with one.asked() as reference:
            return list(reference.embed(need(one.tokens).encode(part)))

    return np.stack(comparison.each(one.what, texts, str, run))


def embed(comparison: Comparison, ids: Ids, what: str) -> Float32:
    """The source's answers [n, width] to texts of token ids."""
    found = comparison.each(what, ids, tuple, lambda part: list(comparison.reference.embed(part)))
    return np.stack(found) if found else np.zeros((0, 1), np.float32)
