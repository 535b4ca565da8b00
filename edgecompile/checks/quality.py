"""Steps 2 and 3: the bundle in its engine against the source, and against its codes in torch."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends import Decoded, ReadWhenAsked
from edgecompile.checks import Limits
from edgecompile.checks.renumbered import Renumbered
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement, accuracy, cosine, error, rank, top1
from edgecompile.metrics.logits import LogitComparison
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.reference import Reference
from edgecompile.report import Row, judged, unproven
from edgecompile.runtime.worker_client import Worker
from edgecompile.tasks import IMAGE_TEXT, PAIRS, PER_TOKEN, SPEECH, TASKS, TEXT_TO_TEXT
from edgecompile.text.parts import Document
from edgecompile.text.source_tokens import SourceTokens, windows
from edgecompile.tokenizer import class_name, labels

QUALITY, EXPORT = "quality", "export"
STEP_TEXTS = 64  # between two looks of the progress bar
LEAST_LABELLED = 100  # samples; fewer prove no accuracy
LEAST_ALIKE = 300  # samples without labels: none that differs then bounds the loss at 3 / 300

Windows = Sequence[NDArray[np.int64]]  # token ids [n] each
Steps = Iterator[tuple[str, tuple[Measurement, ...]]]


@dataclass(frozen=True)
class Comparison:
    """What both steps need: the two sides, how much to measure, and the limits by metric."""

    worker: Worker
    model: Model  # the source
    decoded: Decoded
    source_tokens: SourceTokens | None
    options: Limits
    limits: Mapping[str, float]
    progress: Progress
    replaced: Collection[str] = ()  # float tensors that a pass changed
    against_codes: bool = True  # whether the same codes in torch are asked too
    old_ids: Sequence[int] | None = None  # the source's id of each of the bundle's, where not equal

    @cached_property
    def reference(self) -> Reference:
        """The source in torch, made when it is first asked for."""
        if self.old_ids is not None:
            return Renumbered(self.model, self.old_ids, lean=True)
        return Reference(self.model, lean=True)

    def same_codes(self) -> AbstractContextManager[Any]:
        """Inside, the reference computes with what the sealed files hold in place of the source."""
        floats = ReadWhenAsked(self.replaced, self.decoded.floats.__getitem__)
        return self.reference.quantized(self.decoded.quantized, floats)

    def judge(self, step: str, measured: Measurement) -> Row:
        """The measurement against its limit, if there is one."""
        return judged(step, measured, self.limits.get(measured.metric))


def rows(comparison: Comparison, documents: Sequence[Document], context: int) -> Iterator[Row]:
    """Rows of the model's task; `context` is the decoder's length in tokens."""
    task = comparison.model.task
    if task == "embedding":
        yield from embedding_rows(comparison, [d.text for d in documents])
    elif task == "classification":
        yield from classification_rows(comparison, documents)
    elif task == IMAGE_TEXT:
        from edgecompile.checks import image_text

        yield from image_text.rows(comparison, documents)
    elif TASKS[task].takes == "picture":
        from edgecompile.checks import pictures

        yield from pictures.rows(comparison, documents)
    elif task in (*PER_TOKEN, *PAIRS):
        from edgecompile.checks import heads

        yield from heads.rows(comparison, documents)
    elif task == "text-generation":
        yield from generation_rows(comparison, [d.text for d in documents], context)
    elif task == SPEECH:
        from edgecompile.checks import speech

        yield from speech.rows(comparison, documents)
    elif task == TEXT_TO_TEXT:
        from edgecompile.checks import text2text

        yield from text2text.rows(comparison, [d.text for d in documents], context)
    else:
        yield from module_rows(comparison)


def embedding_rows(comparison: Comparison, texts: Sequence[str]) -> Iterator[Row]:
    """Cosine and rank correlation on texts; then the least cosine to the same codes in torch."""
    options = comparison.options
    texts = texts[: options.texts]
    ids = need(comparison.source_tokens).encode(texts)
    found = in_batches(comparison, texts)
    source = embed(comparison, ids, "embed with the source")
    for measured in cosine.measure(cosine.cosines(source, found)):
        yield comparison.judge(QUALITY, measured)
    yield comparison.judge(QUALITY, rank.measure(source, found))
    if not comparison.against_codes:
        return
    few = slice(options.fidelity_texts)
    with comparison.same_codes():
        exact = embed(comparison, ids[few], "embed with the same codes")
    values = cosine.cosines(exact, found[few])
    lowest = cosine.measure(values)[2]
    yield comparison.judge(EXPORT, replace(lowest, metric="export_cosine_min"))


def in_batches(comparison: Comparison, texts: Sequence[str]) -> NDArray[np.float32]:
    """The bundle's vectors [n, dim] of texts."""
    parts = []
    for start in range(0, len(texts), STEP_TEXTS):
        comparison.progress("embed with the bundle", start, len(texts))
        parts.append(comparison.worker.embed(texts[start : start + STEP_TEXTS]))
    comparison.progress("embed with the bundle", len(texts), len(texts))
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def embed(comparison: Comparison, ids: Sequence[Sequence[int]], what: str) -> NDArray[np.float32]:
    """The source's answers [n, width] to texts of token ids."""
    parts = []
    for start in range(0, len(ids), STEP_TEXTS):
        comparison.progress(what, start, len(ids))
        parts.append(comparison.reference.embed(ids[start : start + STEP_TEXTS]))
    comparison.progress(what, len(ids), len(ids))
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def classification_rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Classes of text, the bundle's against the source's."""
    documents = documents[: classified(comparison.options)]
    texts = [d.text for d in documents]
    names = labels(comparison.model.config)
    source = embed(comparison, need(comparison.source_tokens).encode(texts), "classify")
    answers = comparison.worker.classify(texts)
    found = np.array([[answer[name] for name in names] for answer in answers])
    yield from class_rows(comparison, documents, source, found)


def classified(options: Limits) -> int:
    """Samples of a classifier: as many as asked for, or as prove it without labels."""
    return max(options.texts, LEAST_ALIKE) if options.texts >= LEAST_LABELLED else options.texts


def class_rows(
    comparison: Comparison, documents: Sequence[Document], source: NDArray[Any],
    found: NDArray[Any],
) -> Iterator[Row]:  # fmt: skip
    """Accuracy against the source's where all have labels, else how often the class is the same.

    `source` and `found` are scores [samples, classes]. What keeps its class keeps its accuracy, so
    agreement bounds the loss (docs/decisions/0003-limits.md).
    """
    names = labels(comparison.model.config)
    agreement = replace(top1.measure(top1.agreements(source, found)), metric="class_agreement")
    truth = [class_name(d.label, names) for d in documents if d.label is not None]
    labelled = len(truth) == len(documents) >= LEAST_LABELLED
    if not labelled and len(documents) >= LEAST_ALIKE:
        yield comparison.judge(QUALITY, agreement)
        return
    yield judged(QUALITY, agreement)
    if not labelled:
        why = f"{len(truth)} of {len(documents)} held-out samples have a label; give --data with"
        wanted = f"{why} at least {LEAST_LABELLED} labelled ones, or {LEAST_ALIKE} of any"
        yield unproven(QUALITY, "accuracy_ratio", wanted)
        return
    sides = (
        accuracy.hits([names[i] for i in side.argmax(1)], truth) for side in (source, found)
    )
    for measured in accuracy.measure(*sides):
        yield comparison.judge(QUALITY, measured)


def generation_rows(
    comparison: Comparison, texts: Sequence[str], context: int
) -> Iterator[Row]:
    """KL divergence, perplexity and top-1 agreement on windows of text; then the same codes."""
    options = comparison.options
    size = min(options.window, context - 1)
    pieces = windows_of(comparison, texts, size, options.tokens)
    few = pieces[: max(1, options.fidelity_tokens // size)]
    for step, measurements in _way(comparison)(comparison, pieces, few):
        for measured in measurements:
            if step == QUALITY:
                yield comparison.judge(step, measured)
            elif measured.metric == "kl_mean":
                yield comparison.judge(step, replace(measured, metric="export_kl_mean"))


def windows_of(
    comparison: Comparison, texts: Sequence[str], size: int, tokens: int
) -> Windows:
    """Token ids of the texts in windows of `size`, `tokens` in all."""
    return windows(need(comparison.source_tokens), texts, size, tokens)


def _way(comparison: Comparison) -> Callable[[Comparison, Windows, Windows], Steps]:
    """Block by block where a decoder's float32 weights would be too much at once."""
    large = 4 * comparison.model.parameters > comparison.options.stream_above
    if large and comparison.old_ids is None:
        from edgecompile.checks.streamed import compare

        return compare
    return _compare_whole


def _compare_whole(comparison: Comparison, pieces: Windows, few: Windows) -> Steps:
    yield QUALITY, _compare(comparison, pieces, "compare with the source")
    if not comparison.against_codes:
        return
    with comparison.same_codes():
        yield EXPORT, _compare(comparison, few, "compare with the same codes")


def _compare(comparison: Comparison, pieces: Windows, what: str) -> tuple[Measurement, ...]:
    both = LogitComparison()
    for done, ids in enumerate(pieces):
        comparison.progress(what, done, len(pieces))
        row = ids.tolist()
        both.add(ids, comparison.reference.logit_chunks(row, 64), comparison.worker.logits(row))
    comparison.progress(what, len(pieces), len(pieces))
    return both.measure()


def module_rows(comparison: Comparison) -> Iterator[Row]:
    """Relative and absolute error on the example inputs and seeded changes of them."""
    inputs = list(perturbed(comparison.reference.example_inputs, comparison.options.seed))
    for step, prefix, scope in (
        (QUALITY, "", nullcontext()),
        (EXPORT, "export_", comparison.same_codes()),
    ):
        relative, absolute = [], []
        with scope:
            for arrays in inputs:
                source = list(comparison.reference.run(**arrays).values())
                found = list(comparison.worker.run(**arrays).values())
                relative.append(_all(error.relative_error, source, found))
                absolute.append(_all(error.absolute_error, source, found))
        for measured in error.measure(np.array(relative), np.array(absolute)):
            yield comparison.judge(step, replace(measured, metric=prefix + measured.metric))


def _all(measure: Any, source: list[NDArray[Any]], found: list[NDArray[Any]]) -> float:
    """The largest error over the outputs; NaN where their numbers differ."""
    if len(source) != len(found):
        return float("nan")
    return float(np.max([measure(a, b) for a, b in zip(source, found, strict=True)]))


def perturbed(
    examples: Mapping[str, NDArray[Any]], seed: int, count: int = 8
) -> Iterator[dict[str, NDArray[Any]]]:
    """The example inputs, then `count` - 1 times floats with noise of a tenth of their spread.

    Integers and booleans are kept, but shuffled along the first axis: they may be indices.
    """
    yield dict(examples)
    rng = np.random.default_rng(seed)
    for _ in range(count - 1):
        changed = {}
        for name, array in examples.items():
            if np.issubdtype(array.dtype, np.floating):
                noise = rng.normal(size=array.shape) * (0.1 * (array.std() or 1.0))
                changed[name] = (array + noise).astype(array.dtype)
            else:
                changed[name] = rng.permutation(array) if array.ndim else array
        yield changed


def need(tokens: SourceTokens | None) -> SourceTokens:
    """The source's tokenizer, which every model of text has."""
    if tokens is None:
        raise BadInputError("manifest", "no tokenizer for a model of text", "a tokenizer section")
    return tokens
