"""Steps 2 and 3: the bundle in its engine against the source, and against its codes in torch."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from edgecompile.checks import (
    answers,
    classes,
    generating,
    heads,
    image_text,
    modules,
    pictures,
    speech,
    text2text,
    vectors,
)
from edgecompile.checks.comparison import AT_ONCE, Comparison, need
from edgecompile.checks.looks import drawn
from edgecompile.report import Row
from edgecompile.statistics.looks import FACTOR
from edgecompile.tasks import IMAGE_TEXT, PAIRS, PICTURES, SPEECH, TEXT_TO_TEXT
from edgecompile.text.captions import pictures_of, texts_of
from edgecompile.text.parts import Document

Documents = Sequence[Document]
Measure = Callable[[Comparison, Documents, int], Iterable[Row]]


def rows(comparison: Comparison, documents: Documents, context: int) -> Iterator[Row]:
    """Rows of the model's task; `context` is the decoder's length in tokens.

    More is drawn while a metric is open, as far as more is held out.
    """
    task = comparison.model.task
    measure, unit = ROWS[task], "tokens" if task in IN_TOKENS else "texts"
    yield from drawn(
        comparison, unit, _available(comparison, documents),
        lambda one: measure(one, documents, context),
    )  # fmt: skip
    if comparison.options.metrics and task == "text-generation":
        yield from answers.rows(comparison, documents, context)


def _available(comparison: Comparison, documents: Documents) -> int:
    """Samples that are held out, in the task's unit; of slow comparisons what is asked for."""
    task, options = comparison.model.task, comparison.options
    if task == SPEECH or generating.is_streamed(comparison):
        return options.tokens if task in IN_TOKENS else options.texts
    if task == IMAGE_TEXT:
        return max(len(pictures_of(documents)), len(texts_of(documents)))
    if task not in IN_TOKENS:
        return 2 * (len(documents) - 1) if task in PAIRS else len(documents)
    tokens, total = need(comparison.source_tokens), 0
    each = TOKENS_A_SAMPLE.get(task, 1)
    most = FACTOR * options.tokens * each
    for start in range(0, len(documents), AT_ONCE):
        total += sum(map(len, tokens.encode(_texts(documents[start : start + AT_ONCE]))))
        if total >= most:
            break
    return max(1, total // each)


def _texts(documents: Documents) -> list[str]:
    return [one.text for one in documents]


IN_TOKENS = ("text-generation", "fill-mask", TEXT_TO_TEXT)
TOKENS_A_SAMPLE = {TEXT_TO_TEXT: 2, "fill-mask": heads.EVERY}  # half of a text is the source
ROWS: Mapping[str, Measure] = {
    "embedding": lambda one, documents, _: vectors.rows(one, documents),
    "classification": lambda one, documents, _: classes.rows(one, documents),
    "token-classification": lambda one, documents, _: heads.token_rows(one, documents),
    "fill-mask": lambda one, documents, _: heads.mask_rows(one, documents),
    "text-ranking": lambda one, documents, _: heads.pair_rows(one, documents),
    "text-generation": lambda one, docs, context: generating.rows(one, _texts(docs), context),
    TEXT_TO_TEXT: lambda one, docs, context: text2text.rows(one, _texts(docs), context),
    SPEECH: lambda one, documents, _: speech.rows(one, documents),
    PICTURES: lambda one, documents, _: pictures.rows(one, documents),
    IMAGE_TEXT: lambda one, documents, _: image_text.rows(one, documents),
    "module": lambda one, _, __: modules.rows(one),
}
