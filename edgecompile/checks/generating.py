"""Decoders: the next token's distribution in windows of text, and what is generated."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgecompile.checks import continuing, drawing, safety, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, need
from edgecompile.checks.earlier import Earlier
from edgecompile.checks.stored import StoredLogits, store_of
from edgecompile.metrics import Measurement, logits
from edgecompile.metrics.logits import TokenRows
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row
from edgecompile.runtime.worker_client import Worker
from edgecompile.text.source_tokens import Piece, pieces

Pieces = Sequence[Piece]
Side = Callable[[Piece], Iterable[Float32]]  # a window's logits
Steps = Iterator[tuple[str, tuple[Measurement, ...]]]
CHUNK = 64  # rows of logits at a time
LONGEST = 2048  # tokens of the one long window: eager attention in torch takes their square


def rows(comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Row]:
    """KL divergence, perplexity, agreement on windows of text; the same codes; generated text."""
    options = comparison.options
    size = min(options.window, context - 1)
    whole = pieces(need(comparison.source_tokens), texts, size, options.tokens)
    few = whole[: max(1, options.fidelity_tokens // size)]
    failed = False
    for row in _judged(comparison, texts, (whole, few), context):
        failed = failed or row.verdict == "fail"
        yield row
    if comparison.against_codes and not is_streamed(comparison):
        yield from _stages(comparison, few, failed)


def _judged(
    comparison: Comparison, texts: Sequence[str], windows: tuple[Pieces, Pieces], context: int
) -> Iterator[Row]:
    whole, few = windows
    streamed = is_streamed(comparison)
    if comparison.against_codes:  # before a streamed comparison closes the worker
        yield from continuing.rows(comparison, whole, context, not streamed)
        yield from drawing.rows(comparison, texts)
        if not streamed:
            yield from _far(comparison, texts, context)
            yield from safety.rows(comparison, context)
    for step, measurements in _way(comparison)(comparison, whole, few):
        for measured in measurements:
            if step == QUALITY:
                yield comparison.judge(step, measured)
            elif measured.metric == "kl_mean":
                yield comparison.judge(step, replace(measured, metric="export_kl_mean"))


def _stages(comparison: Comparison, few: Pieces, failed: bool) -> Iterator[Row]:
    """`kl_mean` of the first windows after each stage."""
    if comparison.chain is not None:
        with comparison.graph(failed) as graph:
            yield from _whole_chain(comparison, few, graph)
        return
    compared = comparison.memo["compare with the same codes"]
    quantized = [compared[_key(piece)][1] for piece in few]
    shipped = comparison.memo["compare with the source"]
    found = [shipped[_key(piece)] for piece in few]
    source, engine = store_of(comparison.memo, "source"), found
    if failed:
        with comparison.graph(failed) as graph:
            engine = [
                logits.compared_window(
                    piece.ids, source.read(_key(piece)), graph.logits(piece.ids.tolist())
                )
                for piece in few
            ]
    for stage, side in ((stages.QUANTIZED, quantized), (stages.GRAPH, engine),
                        (stages.RUNTIME, found)):  # fmt: skip
        measured = logits.measure(zip(side, documents(few), strict=True))[0]
        yield stages.of(stage, measured)


def _whole_chain(comparison: Comparison, few: Pieces, graph: Worker) -> Iterator[Row]:
    """The same with the models before the source, all from logits on the disk."""

    def side(name: str) -> Side:
        store = store_of(comparison.memo, name)
        return lambda piece: store.read(_key(piece))

    def kept(name: str, ask: Callable[[list[int]], Iterable[Float32]]) -> Side:
        store = store_of(comparison.memo, name)
        for done, piece in enumerate(few):
            comparison.progress(name, done, len(few))
            if _key(piece) not in store:
                store.add(_key(piece), ask(piece.ids.tolist()))
        return side(name)

    def earlier(one: Earlier) -> Side:
        with one.asked() as reference:
            return kept(one.what, lambda ids: reference.logit_chunks(ids, CHUNK))

    def divergence(before: Side, after: Side) -> Measurement:
        rows_ = [logits.compared_window(piece.ids, before(piece), after(piece)) for piece in few]
        return logits.measure(zip(rows_, documents(few), strict=True))[0]

    found = kept("ask the bundle", comparison.worker.logits)
    engine = found if graph is comparison.worker else kept("ask the graph", graph.logits)
    sides = {stages.QUANTIZED: side("codes"), stages.GRAPH: engine, stages.RUNTIME: found}
    yield from stages.through(comparison.chain, side("source"), sides, earlier, divergence)


def _far(comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Row]:
    """`context_kl`: the divergence at the end of one window as long as the context, or LONGEST.

    Shorter windows never see its later positions.
    """
    size = min(context, LONGEST)
    whole = pieces(need(comparison.source_tokens), texts, size, size)
    if not whole or len(whole[0].ids) <= min(comparison.options.window, context - 1):
        return

    def run(part: Pieces) -> list[TokenRows]:
        return [_end(comparison, part[0])]

    kl = comparison.each("compare a long window", whole[:1], _key, run, 1)[0].kl
    measured = Measurement("context_kl", float(kl.mean()), "nats", "lower", len(kl))
    yield comparison.judge(EXPORT, measured)


def _end(comparison: Comparison, piece: Piece) -> TokenRows:
    """The last CHUNK rows of a window of the source and of the bundle."""
    ids, first = piece.ids.tolist(), max(0, len(piece.ids) - CHUNK)
    source = comparison.reference.logit_chunks(ids, CHUNK, first)
    found = _from(first, comparison.worker.logits(ids))
    return logits.compared(piece.ids[first + 1 :], len(ids) - first, source, found)


def _from(first: int, chunks: Iterator[Float32]) -> Iterator[Float32]:
    """The rows of the chunks from number `first` on."""
    passed = 0
    for chunk in chunks:
        if len(rows := chunk[max(0, first - passed) :]):
            yield rows
        passed += len(chunk)


def is_streamed(comparison: Comparison) -> bool:
    """Whether a decoder's float32 weights would be too much at once: then block by block."""
    large = 4 * comparison.model.parameters > comparison.options.stream_above
    return large and comparison.old_ids is None


def _way(comparison: Comparison) -> Callable[[Comparison, Pieces, Pieces], Steps]:
    if is_streamed(comparison):
        from edgecompile.checks.streamed import compare

        return compare
    return _compare_whole


def _compare_whole(comparison: Comparison, whole: Pieces, few: Pieces) -> Steps:
    """All windows against the source; the first few also against the same codes in torch."""
    source = store_of(comparison.memo, "source") if comparison.against_codes else None
    kept = {_key(piece) for piece in few}

    def run(part: Pieces) -> list[TokenRows]:
        return [_window(comparison, piece, source if _key(piece) in kept else None)
                for piece in part]  # fmt: skip

    found = comparison.each("compare with the source", whole, _key, run, 1)
    yield QUALITY, logits.measure(zip(found, documents(whole), strict=True))
    if source is None:
        return
    with comparison.same_codes():
        compared = comparison.each("compare with the same codes", few, _key, lambda part: [
            _codes(comparison, piece, source) for piece in part
        ], 1)  # fmt: skip
    exported, _ = zip(*compared, strict=True)
    yield EXPORT, logits.measure(zip(exported, documents(few), strict=True))


def _window(comparison: Comparison, piece: Piece, keep: StoredLogits | None) -> TokenRows:
    """One window of the source and of the bundle; the source's logits kept where they are asked."""
    ids = piece.ids.tolist()
    source = comparison.reference.logit_chunks(ids, CHUNK)
    if keep is not None:
        source = keep.passing(_key(piece), source)
    return logits.compared_window(piece.ids, source, comparison.worker.logits(ids))


def _codes(
    comparison: Comparison, piece: Piece, source: StoredLogits
) -> tuple[TokenRows, TokenRows]:
    """The bundle against the same codes in torch, and these against the source."""
    ids, key, codes = piece.ids.tolist(), _key(piece), store_of(comparison.memo, "codes")
    exact = codes.passing(key, comparison.reference.logit_chunks(ids, CHUNK))
    exported = logits.compared_window(piece.ids, exact, comparison.worker.logits(ids))
    for _ in exact:  # a bundle that stopped early
        pass
    return exported, logits.compared_window(piece.ids, source.read(key), codes.read(key))


def _key(piece: Piece) -> bytes:
    return piece.ids.tobytes()


def documents(whole: Pieces) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Of which document each token is; what one has in two windows counts as two."""
    for number, piece in enumerate(whole):
        yield (number << 32) + piece.documents
