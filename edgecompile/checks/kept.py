"""Step `kept`: what a pruned or distilled model, as it ships, kept of the model that came in.

The limits are those of 4 bits, whatever the width (docs/decisions/0012-smaller-models.md); a recipe
makes them stricter as kept_accuracy_ratio, kept_kl_mean, ...
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgecompile.checks import kept_vocab
from edgecompile.checks.comparison import QUALITY, Comparison
from edgecompile.checks.limits import KEPT
from edgecompile.checks.quality import rows as quality_rows
from edgecompile.model import Model
from edgecompile.report import Row
from edgecompile.text.parts import Document

STEP = "kept"


def rows(
    comparison: Comparison, origin: Model, documents: Sequence[Document], context: int
) -> Iterator[Row]:
    """The task's rows against `origin`, each under its name with `kept_` before it."""
    limits = {
        metric.removeprefix(KEPT): limit for metric, limit in comparison.limits.items()
        if metric.startswith(KEPT)
    }  # fmt: skip
    other = replace(comparison, model=origin, limits=limits, against_codes=False, memo={})
    whole_texts = comparison.old_ids is not None and origin.task == "text-generation"
    for row in quality_rows(other, documents, context):
        if row.step == QUALITY and not (whole_texts and row.metric in kept_vocab.PER_TEXT):
            yield replace(row, step=STEP, metric=KEPT + row.metric)
    if whole_texts:
        texts = [document.text for document in documents]
        for found in kept_vocab.same_text(other, texts, context):
            yield replace(other.judge(STEP, found), metric=KEPT + found.metric)


def required(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of a task's metrics that a comparison with another model gives."""
    return tuple(KEPT + name for name in metrics if not name.startswith(("export_", "picture_")))
