"""What a decoder answers, the bundle's text beside the source's: for metrics of the user's own.

A document with a label is a question, asked by the chat template where there is one; of one without
its first tokens are continued.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgecompile.checks import continuing, own
from edgecompile.checks.comparison import Comparison, need
from edgecompile.checks.continuing import PROMPT_TOKENS
from edgecompile.checks.generating import is_streamed
from edgecompile.checks.looks import drawn
from edgecompile.report import Row
from edgecompile.statistics.looks import FACTOR
from edgecompile.text.parts import Document
from edgecompile.text.source_tokens import FolderTokens


class Prompt(NamedTuple):
    """Token ids of what is asked, and the document."""

    ids: tuple[int, ...]
    text: str
    label: str | None


def rows(comparison: Comparison, documents: Sequence[Document], context: int) -> Iterator[Row]:
    """A row a metric, at looks of their own: `answers` prompts, then more while one is open."""
    if comparison.old_ids is not None:
        return  # two vocabularies: step `quality` measures it against the smaller model
    if is_streamed(comparison):
        why = "the source is read block by block, which answers nothing"
        yield from own.unmeasured(comparison, why)
        return
    prompts = list(_prompts(comparison, documents, context))
    if not prompts:
        room = context - comparison.options.answer_tokens
        yield from own.unmeasured(comparison, f"no held-out prompt is within {room} tokens")
        return
    yield from drawn(comparison, "answers", len(prompts), lambda one: own.rows(
        one, _samples(one, prompts[: one.options.answers])
    ))  # fmt: skip


def _prompts(
    comparison: Comparison, documents: Sequence[Document], context: int
) -> Iterator[Prompt]:
    """Those that leave room for an answer, as many as all looks may ask."""
    room = context - comparison.options.answer_tokens
    asked = (_prompt(comparison, document) for document in documents)
    fitting = (one for one in asked if one is not None and 0 < len(one.ids) <= room)
    return itertools.islice(fitting, FACTOR * comparison.options.answers)


def _prompt(comparison: Comparison, document: Document) -> Prompt | None:
    """None where the template refuses the question."""
    tokens = need(comparison.source_tokens)
    if document.label is None:
        ids = tokens.encode([document.text])[0][:PROMPT_TOKENS]
        return Prompt(tuple(ids), tokens.decode(ids), None)
    if isinstance(tokens, FolderTokens) and tokens.has_template:
        said = [{"role": "user", "content": document.text}]
        found = tokens.render({"messages": said, "add_generation_prompt": True})
        return Prompt(tuple(found["ids"]), document.text, document.label) \
            if "ids" in found else None  # fmt: skip
    return Prompt(tuple(tokens.encode([document.text])[0]), document.text, document.label)


def _samples(comparison: Comparison, prompts: Sequence[Prompt]) -> Iterator[own.Sample]:
    asked = [one.ids for one in prompts]
    sides = continuing.answers(comparison, asked, comparison.options.answer_tokens)
    for number, (prompt, found, source) in enumerate(zip(prompts, *sides, strict=True)):
        yield own.Sample(number, source, found, prompt.text, prompt.label)
