"""Classifiers: accuracy where there are labels, else how often the class is the source's."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks import alone, own, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, Ids, need
from edgecompile.checks.earlier import Earlier
from edgecompile.checks.vectors import embed, embed_earlier
from edgecompile.metrics import Measurement, accuracy, by_class, each_alone, error, top1
from edgecompile.report import Row, judged
from edgecompile.runtime.batching import activate
from edgecompile.text.parts import Document
from edgecompile.tokenizer import class_name, labels


def rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Classes of text, the bundle's against the source's."""
    documents = documents[: comparison.options.texts]
    texts = [d.text for d in documents]
    names = labels(comparison.model.config)
    ids = need(comparison.source_tokens).encode(texts)
    source = embed(comparison, ids, "classify")

    def answers(part: Sequence[str]) -> list[list[float]]:
        found = comparison.worker.classify(part)
        return [[answer[name] for name in names] for answer in found]

    found = np.array(comparison.each("classify with the bundle", texts, str, answers))
    yield from class_rows(comparison, documents, source, found)
    sides = activate(source, _kind(comparison)), found
    yield from own.rows(comparison, own.paired(documents, *sides, names))
    if comparison.against_codes:
        few = ids[: comparison.options.fidelity_texts]
        both = source[: len(few)], found[: len(few)]
        yield from _same_codes(comparison, texts[: len(few)], few, both)
        yield from alone.rows(comparison, texts, found, lambda one: np.array(answers(one)))


def _same_codes(
    comparison: Comparison, texts: Sequence[str], ids: Ids,
    both: tuple[NDArray[np.float32], NDArray[np.float64]],
) -> Iterator[Row]:  # fmt: skip
    """Probabilities of each stage beside the source's; of `both` its logits are given."""
    source, found = both
    kind = _kind(comparison)
    with comparison.same_codes():
        exact = embed(comparison, ids, "classify with the same codes")
    before: NDArray[Any]
    before, codes = (activate(one, kind) for one in (source, exact))
    value = error.relative_error(codes, found)
    row = comparison.judge(
        EXPORT, Measurement("export_relative_error", value, "", "lower", len(found))
    )
    yield row
    with comparison.graph(row.verdict == "fail") as graph:
        engine = activate(np.stack(graph.rows(ids)), kind)
    sides: dict[str, NDArray[Any]] = {
        stages.QUANTIZED: codes, stages.GRAPH: engine, stages.RUNTIME: found,
    }

    def ask(one: Earlier) -> NDArray[Any]:
        return activate(embed_earlier(comparison, one, texts), kind)

    yield from stages.through(comparison.chain, before, sides, ask, stages.erring)


def _kind(comparison: Comparison) -> str:
    """What makes probabilities of a source's logits."""
    several = comparison.model.config.get("problem_type") == "multi_label_classification"
    return "sigmoid" if several else "softmax"


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
    number = {name: at for at, name in enumerate(names)}
    right = np.array([number[name] for name in truth], np.int64)
    for measured in by_class.measure(right, shares(source), shares(found), names):
        yield comparison.judge(QUALITY, measured)


def shares(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities [samples, classes]: those that are given, or the softmax of scores."""
    sums = scores.sum(1)
    if (scores >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        return scores.astype(np.float64)
    return activate(scores, "softmax").astype(np.float64)
