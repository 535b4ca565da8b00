"""Classifiers: accuracy where there are labels, else how often the class is the source's."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.comparison import QUALITY, Comparison, need
from edgecompile.checks.vectors import embed
from edgecompile.metrics import accuracy, each_alone, top1
from edgecompile.report import Row, judged
from edgecompile.text.parts import Document
from edgecompile.tokenizer import class_name, labels


def rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Classes of text, the bundle's against the source's."""
    documents = documents[: comparison.options.texts]
    texts = [d.text for d in documents]
    names = labels(comparison.model.config)
    source = embed(comparison, need(comparison.source_tokens).encode(texts), "classify")

    def answers(part: Sequence[str]) -> list[list[float]]:
        found = comparison.worker.classify(part)
        return [[answer[name] for name in names] for answer in found]

    found = comparison.each("classify with the bundle", texts, str, answers)
    yield from class_rows(comparison, documents, source, np.array(found))


def class_rows(
    comparison: Comparison, documents: Sequence[Document], source: NDArray[Any],
    found: NDArray[Any],
) -> Iterator[Row]:  # fmt: skip
    """Accuracy against the source's where all have labels, else how often the class is the same.

    `source` and `found` are scores [samples, classes]. What keeps its class keeps its accuracy, so
    agreement bounds the loss (docs/decisions/0003-limits.md).
    """
    names = labels(comparison.model.config)
    agreed = top1.agreements(source, found)
    agreement = top1.measure(agreed, each_alone(agreed), "class_agreement")
    truth = [class_name(d.label, names) for d in documents if d.label is not None]
    if len(truth) < len(documents):
        yield comparison.judge(QUALITY, agreement)
        return
    yield judged(QUALITY, agreement)
    sides = (
        accuracy.hits([names[i] for i in side.argmax(1)], truth) for side in (source, found)
    )
    for measured in accuracy.measure(*sides):
        yield comparison.judge(QUALITY, measured)
