"""Encoder-decoders: the answer's next tokens, given the source and the answer so far."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecompile import tokenizer
from edgecompile.checks import own
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement, logits
from edgecompile.metrics.logits import TokenRows
from edgecompile.report import Row
from edgecompile.text.source_tokens import SourceTokens


@dataclass(frozen=True)
class Pair:
    """Token ids of a source, its special ones included, and of an answer after its start token."""

    source: list[int]
    answer: NDArray[np.int64]
    text: str = ""  # of both


def rows(comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Row]:
    """KL divergence, perplexity and top-1 agreement of second halves after first halves."""
    options, tokens = comparison.options, comparison.source_tokens
    section = tokenizer.generation(comparison.model)
    if tokens is None or section is None:
        raise BadInputError("manifest", "no tokenizer or generation section", "both for this task")
    size = min(options.window, context - 1)
    found = pairs(tokens, texts, size, options.tokens, int(section["start_token_id"]))
    for measured in _compare(comparison, found, "compare with the source"):
        yield comparison.judge(QUALITY, measured)
    answers = comparison.memo["compare with the source"]
    known = [answers[_key(pair)] for pair in found]
    yield from own.rows(comparison, own.of_tokens(known, [pair.text for pair in found]))
    few = _of_tokens(found, options.fidelity_tokens)
    with comparison.same_codes():
        for measured in _compare(comparison, few, "compare with the same codes"):
            if measured.metric == "kl_mean":
                yield comparison.judge(EXPORT, replace(measured, metric="export_kl_mean"))


def pairs(
    tokens: SourceTokens, texts: Sequence[str], size: int, total: int, start: int
) -> list[Pair]:
    """Each text's two halves, cut to `size` tokens each, of `total` tokens of answers."""
    end, found, count = tokens.encode([""])[0], [], 0
    for text in texts:
        words = text.split()
        half = len(words) // 2
        if not half:
            continue
        source, answer = (
            _cut(row, end, size)
            for row in tokens.encode([" ".join(words[:half]), " ".join(words[half:])])
        )
        answer = [start, *answer][:size]
        found.append(Pair(source, np.array(answer, np.int64), text))
        count += len(answer)
        if count >= total:
            break
    return found


def _cut(row: list[int], end: list[int], size: int) -> list[int]:
    """At most `size` tokens, with what the tokenizer puts after every text."""
    if len(row) <= size:
        return row
    return row[: size - len(end)] + end if end and row[-len(end) :] == end else row[:size]


def _of_tokens(found: Sequence[Pair], total: int) -> Sequence[Pair]:
    """The first pairs whose answers have at least so many tokens."""
    ends = np.cumsum([len(pair.answer) for pair in found])
    return found[: int(np.searchsorted(ends, total)) + 1]


def _compare(
    comparison: Comparison, found: Sequence[Pair], what: str
) -> tuple[Measurement, ...]:
    def run(part: Sequence[Pair]) -> list[TokenRows]:
        return [_answered(comparison, pair) for pair in part]

    rows_ = comparison.each(what, found, _key, run, 1)
    owners = (np.full(len(pair.answer), number) for number, pair in enumerate(found))
    return logits.measure(zip(rows_, owners, strict=True))


def _key(pair: Pair) -> tuple[bytes, tuple[int, ...]]:
    return pair.answer.tobytes(), tuple(pair.source)


def _answered(comparison: Comparison, pair: Pair) -> TokenRows:
    ids = pair.answer.tolist()
    source = comparison.reference.answer_logits(pair.source, ids)
    return logits.compared_window(pair.answer, [source], comparison.worker.logits(ids, pair.source))
