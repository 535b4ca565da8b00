"""Texts and pictures: vectors of both, and what a search of one by the other finds.

The rule is in docs/decisions/0003-limits.md.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgecompile.checks import own
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, need
from edgecompile.checks.pictures import look
from edgecompile.checks.vectors import embed, in_batches
from edgecompile.metrics import cosine, recall
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row, judged, unproven
from edgecompile.text.captions import pictures_of, texts_of
from edgecompile.text.parts import Document

PICTURES, TEXTS = "pictures", "texts"
LEAST_CANDIDATES = 100  # of fewer ten are found by chance
LEAST_CAPTIONED = 100  # pictures, for their captions to be judged


def rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Preparation, vectors of either kind, retrieval; then the vectors of the same codes."""
    options = comparison.options
    pictures = pictures_of(documents)[: options.texts]
    kept = {one.text for one in pictures}
    captioned = [d for d in documents if d.picture is not None and d.label and d.text in kept]
    texts = texts_of(captioned or documents)
    texts = texts if captioned else texts[: options.texts]
    seen = look(comparison, pictures)
    yield comparison.judge(QUALITY, seen.error)
    ids = need(comparison.source_tokens).encode(texts)
    found = in_batches(comparison, texts)
    source = embed(comparison, ids, "embed with the source")
    yield from _alike(comparison, PICTURES, seen.source, seen.found)
    yield from _alike(comparison, TEXTS, source, found)
    owners = _owners(pictures, captioned)
    yield from _retrieval(comparison, seen.source @ source.T, seen.found @ found.T, owners)
    yield from own.rows(comparison, [
        *own.paired(pictures, seen.source, seen.found),
        *own.paired([Document(text) for text in texts], source, found),
    ])  # fmt: skip
    few = slice(options.fidelity_texts)
    with comparison.same_codes():
        exact = embed(comparison, ids[few], "embed with the same codes")
        looked = comparison.reference.look(seen.pixels)
    yield _lowest(comparison, PICTURES, looked, seen.found)
    yield _lowest(comparison, TEXTS, exact, found)


def _alike(comparison: Comparison, what: str, source: Float32, found: Float32) -> Iterator[Row]:
    for measured in cosine.measure(cosine.cosines(source, found)):
        yield replace(comparison.judge(QUALITY, measured), detail=what)


def _lowest(comparison: Comparison, what: str, exact: Float32, found: Float32) -> Row:
    lowest = cosine.measure(cosine.cosines(exact, found[: len(exact)]))[2]
    row = comparison.judge(EXPORT, replace(lowest, metric="export_cosine_min"))
    return replace(row, detail=what)


def _owners(pictures: Sequence[Document], captioned: Sequence[Document]) -> list[int]:
    """The number of each caption's picture."""
    numbers = {one.text: number for number, one in enumerate(pictures)}
    return [numbers[one.text] for one in captioned]


def _retrieval(
    comparison: Comparison, source: Float32, found: Float32, owners: Sequence[int]
) -> Iterator[Row]:
    """Of similarities [pictures, texts]; `owners` are empty without captions."""
    if min(source.shape) < LEAST_CANDIDATES:
        held = f"{source.shape[0]} held-out pictures and {source.shape[1]} texts"
        why = f"{held}; give --data with at least {LEAST_CANDIDATES} of both"
        yield unproven(QUALITY, "recall_at_10", why)
    else:
        yield comparison.judge(QUALITY, recall.measure(source, found))
    for measured in recall.of_captions(source, found, owners) if owners else ():
        enough = len(np.unique(owners)) >= LEAST_CAPTIONED
        yield comparison.judge(QUALITY, measured) if enough else judged(QUALITY, measured)
