"""Pictures: are they prepared as the source's processor does, and do they get its answers?"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecompile.checks import own, stages
from edgecompile.checks.classes import class_rows, shares
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.checks.earlier import Earlier
from edgecompile.metrics import Measurement, cosine
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row
from edgecompile.sources import processors
from edgecompile.text.parts import Document
from edgecompile.text.pictures import open_picture
from edgecompile.tokenizer import labels


@dataclass(frozen=True)
class Looked:
    """Answers float32 [n, width] to pictures, and the first few of those, prepared.

    `error` is of their preparation.
    """

    source: Float32
    found: Float32
    pixels: Float32
    expected: Float32  # the same, prepared by the source's processor
    error: Measurement


def rows(comparison: Comparison, documents: Sequence[Document]) -> list[Row]:
    """Preparation, classes, and the scores of the same codes in torch."""
    documents = documents[: comparison.options.texts]
    seen = look(comparison, documents)
    return [
        comparison.judge(QUALITY, seen.error),
        *class_rows(comparison, documents, seen.source, seen.found),
        *own.rows(comparison, own.paired(
            documents, shares(seen.source), shares(seen.found), labels(comparison.model.config)
        )),
        *_same_codes(comparison, seen),
    ]


def look(comparison: Comparison, documents: Sequence[Document]) -> Looked:
    """What source and bundle make of pictures, each with its own preparation."""

    def run(part: Sequence[Document]) -> list[tuple[Float32, Float32, float]]:
        expected, shipped = _prepared(comparison, part)
        errors = np.abs(expected - shipped).max(axis=(1, 2, 3)).tolist()
        source, found = comparison.reference.look(expected), comparison.worker.look(shipped)
        return list(zip(source, found, errors, strict=True))

    seen = comparison.each("look at pictures", documents, lambda one: one.text, run)
    source, found, errors = zip(*seen, strict=True)
    few = documents[: comparison.options.fidelity_texts]
    expected, pixels = _prepared(comparison, few)
    worst = Measurement("picture_error", float(np.max(errors)), "", "lower", len(errors))
    return Looked(np.stack(source), np.stack(found), pixels, expected, worst)


def _prepared(comparison: Comparison, documents: Sequence[Document]) -> tuple[Float32, Float32]:
    """The pictures as the source's own processor gives them, and as the bundle's runtime does."""
    pictures = [open_picture(document) for document in documents]
    shipped = comparison.worker.prepare([np.asarray(picture) for picture in pictures])
    processor = processors.source_processor(comparison.model.folder)
    if processor is None:  # a module's own description of its pictures
        assert comparison.model.pictures is not None
        return comparison.model.pictures.prepare(pictures), shipped
    expected = processor(pictures, return_tensors="np")["pixel_values"]
    return np.asarray(expected, np.float32), shipped


def _same_codes(comparison: Comparison, seen: Looked) -> list[Row]:
    """Scores of the same codes in torch, and of each stage beside the source's."""
    few = slice(len(seen.pixels))
    with comparison.same_codes():
        exact = comparison.reference.look(seen.pixels)
    lowest = cosine.measure(cosine.cosines(exact, seen.found[few]))[2]
    source, graph = seen.source[few], comparison.worker.look(seen.expected)

    def ask(one: Earlier) -> Float32:
        with one.asked() as reference:
            return reference.look(seen.expected)

    return [
        comparison.judge(EXPORT, replace(lowest, metric="export_cosine_min")),
        *stages.through(
            comparison.chain, source,
            {stages.QUANTIZED: exact, stages.GRAPH: graph, stages.RUNTIME: seen.found[few]},
            ask, stages.alike,
        ),
    ]  # fmt: skip
