"""Encoder-decoders: the answer's next tokens, given the source and the answer so far."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecompile import tokenizer
from edgecompile.checks import own, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.checks.earlier import Earlier
from edgecompile.checks.stored import StoredLogits, store_of
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement, logits
from edgecompile.metrics.logits import Chunks, TokenRows
from edgecompile.report import Row
from edgecompile.runtime.worker_client import Worker
from edgecompile.text.source_tokens import SourceTokens


@dataclass(frozen=True)
class Pair:
    """Token ids of a source, its special ones included, and of an answer after its start token."""

    source: list[int]
    answer: NDArray[np.int64]
    text: str = ""  # of both


Side = Callable[[Pair], Chunks]  # an answer's logits


def rows(comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Row]:
    """KL divergence, perplexity and top-1 agreement of second halves after first halves."""
    options, tokens = comparison.options, comparison.source_tokens
    section = tokenizer.generation(comparison.model)
    if tokens is None or section is None:
        raise BadInputError("manifest", "no tokenizer or generation section", "both for this task")
    size = min(options.window, context - 1)
    found = pairs(tokens, texts, size, options.tokens, int(section["start_token_id"]))
    source = store_of(comparison.memo, "source") if comparison.against_codes else None
    measured_ = _compare(comparison, found, "compare with the source", source)
    judged = [comparison.judge(QUALITY, one) for one in measured_]
    yield from judged
    answers = comparison.memo["compare with the source"]
    known = [answers[_key(pair)] for pair in found]
    yield from own.rows(comparison, own.of_tokens(known, [pair.text for pair in found]))
    if not comparison.against_codes:
        return
    few = _of_tokens(found, options.fidelity_tokens)
    codes = store_of(comparison.memo, "codes")
    with comparison.same_codes():
        exported = _compare(comparison, few, "compare with the same codes", codes)
    failed = [row.verdict == "fail" for row in judged]
    for measured in exported:
        if measured.metric == "kl_mean":
            row = comparison.judge(EXPORT, replace(measured, metric="export_kl_mean"))
            failed.append(row.verdict == "fail")
            yield row
    yield from _stages(comparison, few, any(failed))


def _stages(comparison: Comparison, few: Sequence[Pair], failed: bool) -> Iterator[Row]:
    """`kl_mean` of the first answers after each stage."""

    def stored(name: str) -> Side:
        store = store_of(comparison.memo, name)
        return lambda pair: store.read(_key(pair))

    def answered(worker: Worker) -> Side:
        return lambda pair: worker.logits(pair.answer.tolist(), pair.source)

    def earlier(one: Earlier) -> Side:
        store = store_of(comparison.memo, one.what)
        with one.asked() as reference:
            for pair in few:
                store.add(_key(pair), [reference.answer_logits(pair.source, pair.answer.tolist())])
        return stored(one.what)

    def divergence(before: Side, after: Side) -> Measurement:
        rows_ = [logits.compared_window(one.answer, before(one), after(one)) for one in few]
        return logits.measure(zip(rows_, _owners(few), strict=True))[0]

    with comparison.graph(failed) as graph:
        found = answered(comparison.worker)
        engine = found if graph is comparison.worker else answered(graph)
        sides = {stages.QUANTIZED: stored("codes"), stages.GRAPH: engine, stages.RUNTIME: found}
        yield from stages.through(
            comparison.chain, stored("source"), sides, earlier, divergence
        )


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
    comparison: Comparison, found: Sequence[Pair], what: str, keep: StoredLogits | None
) -> tuple[Measurement, ...]:
    """Each side's answers; the reference's logits kept where the first pairs' are asked."""
    few = {_key(pair) for pair in _of_tokens(found, comparison.options.fidelity_tokens)}

    def run(part: Sequence[Pair]) -> list[TokenRows]:
        return [_answered(comparison, pair, keep if _key(pair) in few else None) for pair in part]

    rows_ = comparison.each(what, found, _key, run, 1)
    return logits.measure(zip(rows_, _owners(found), strict=True))


def _key(pair: Pair) -> tuple[bytes, tuple[int, ...]]:
    return pair.answer.tobytes(), tuple(pair.source)


def _owners(found: Sequence[Pair]) -> Iterator[NDArray[np.int64]]:
    """Of which text each row is."""
    return (np.full(len(pair.answer), number) for number, pair in enumerate(found))


def _answered(comparison: Comparison, pair: Pair, keep: StoredLogits | None) -> TokenRows:
    ids = pair.answer.tolist()
    source = comparison.reference.answer_logits(pair.source, ids)
    if keep is not None:
        keep.add(_key(pair), [source])
    return logits.compared_window(pair.answer, [source], comparison.worker.logits(ids, pair.source))
