"""Encoders with a head: labels of tokens, words behind masks, scores of pairs.

The rule is in docs/decisions/0003-limits.md.
"""
from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks import own, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, Ids, need
from edgecompile.checks.earlier import Earlier
from edgecompile.errors import BadInputError
from edgecompile.metrics import Float64, Measurement, cosine, error, f1, logits, rank, tokens, top1
from edgecompile.metrics.logits import TokenRows
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row, judged, unproven
from edgecompile.runtime.batching import activate
from edgecompile.runtime.tokens import Encoded, Pair
from edgecompile.sources.heads import ranking_activation
from edgecompile.text.parts import Document
from edgecompile.tokenizer import class_name, labels

EVERY = 7  # tokens, of which one is hidden
LEAST_ENTITIES = 100  # of fewer no F1 is judged
LEAST_PAIRS = 100
OUTSIDE = "O"


# token-classification


def token_rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """How often a token's label is the source's, entities where there are tags, then the codes."""
    documents = documents[: comparison.options.texts]
    encoded = _encoded(comparison, [document.text for document in documents])
    ids = [one.ids for one in encoded]
    found = _bundle_rows(comparison, ids)
    source = _source_rows(comparison, ids, "label with the source")
    kept = [np.array(one.special) == 0 for one in encoded]
    yield _agreement(comparison, documents, (_kept(source, kept), _kept(found, kept)), kept)
    if _tagged(documents):
        yield from _entities(comparison, documents, encoded, source, found)
    if comparison.options.metrics:
        yield from own.rows(comparison, _tags(comparison, documents, encoded, (source, found)))
    if not comparison.against_codes:
        return
    few = slice(comparison.options.fidelity_texts)
    with comparison.same_codes():
        exact = _source_rows(comparison, ids[few], "label with the same codes")
    lowest = cosine.measure(_by_text(exact, found))[2]
    yield comparison.judge(EXPORT, replace(lowest, metric="export_cosine_min"))
    yield from stages.through(
        comparison.chain, source[few], {stages.QUANTIZED: exact, stages.RUNTIME: found[few]},
        lambda one: _rows_of(one, ids[few]),
        lambda before, after: cosine.measure(_by_text(before, after))[0],
    )  # fmt: skip


def _rows_of(one: Earlier, ids: Ids) -> list[Float32]:
    with one.asked() as reference:
        return reference.rows(ids)


def _tags(
    comparison: Comparison, documents: Sequence[Document], encoded: Sequence[Encoded],
    sides: tuple[Sequence[Float32], Sequence[Float32]],
) -> Iterator[own.Sample]:  # fmt: skip
    """For metrics of the user's own: both sides' tags of each text, one a white-space word."""
    names = labels(comparison.model.config)
    source, found = (
        [word_tags(d.text, one, [names[i] for i in scores.argmax(1)])
         for d, one, scores in zip(documents, encoded, side, strict=True)]
        for side in sides
    )  # fmt: skip
    return own.paired(documents, source, found, names)


def _by_text(one: Sequence[Float32], other: Sequence[Float32]) -> Float64:
    """Cosines of all scores of a text in one vector, as many texts as `one` has."""
    pairs = zip(one, other, strict=False)
    return np.concatenate([cosine.cosines(a.reshape(1, -1), b.reshape(1, -1)) for a, b in pairs])


def _tagged(documents: Sequence[Document]) -> bool:
    """Whether all have tags, and there are any."""
    return bool(documents) and all(document.label is not None for document in documents)


def _agreement(
    comparison: Comparison, documents: Sequence[Document], sides: tuple[Float32, Float32],
    kept: Sequence[NDArray[np.bool_]],
) -> Row:  # fmt: skip
    """Scores of both sides' kept tokens, [tokens, labels] each."""
    owners = np.repeat(np.arange(len(kept)), [int(one.sum()) for one in kept])
    measured = top1.measure(top1.agreements(*sides), owners, "class_agreement")
    return judged(QUALITY, measured) if _tagged(documents) else comparison.judge(QUALITY, measured)


def _entities(
    comparison: Comparison, documents: Sequence[Document], encoded: Sequence[Encoded],
    source: Sequence[Float32], found: Sequence[Float32],
) -> Iterator[Row]:  # fmt: skip
    names = labels(comparison.model.config)
    truth = [truth_tags(document, names) for document in documents]
    sides = [
        [word_tags(d.text, one, [names[i] for i in scores.argmax(1)])
         for d, one, scores in zip(documents, encoded, side, strict=True)]
        for side in (source, found)
    ]  # fmt: skip
    for measured in f1.measure(truth, *sides):
        if measured.samples < LEAST_ENTITIES and measured.metric == "f1_ratio":
            why = f"{measured.samples} entities (B-...) in the tags; at least {LEAST_ENTITIES}"
            yield unproven(QUALITY, measured.metric, why)
        else:
            yield comparison.judge(QUALITY, measured)


def truth_tags(document: Document, names: Sequence[str]) -> list[str]:
    """A tag a white-space word, as a name of the model's (or the number of one)."""
    tags = (document.label or "").split()
    words = len(document.text.split())
    if len(tags) != words:
        found = f"{len(tags)} tags for {words} words of {document.text[:60]!r}"
        raise BadInputError("labelled text", found, "a tag a white-space word")
    return [tag if tag == OUTSIDE else class_name(tag, names) for tag in tags]


def word_tags(text: str, encoded: Encoded, tags: Sequence[str]) -> list[str]:
    """The tag of each white-space word's first token; `O` for a word that has none."""
    first: dict[int, str] = {}
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    owners = np.searchsorted([start for start, _ in spans], [e for _, e in encoded.offsets]) - 1
    for owner, special, (start, end), tag in zip(
        owners.tolist(), encoded.special, encoded.offsets, tags, strict=True
    ):
        if not special and end > start and owner >= 0:
            first.setdefault(owner, tag)
    return [first.get(word, OUTSIDE) for word in range(len(spans))]


# fill-mask


def mask_rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """The words behind masks: divergence, perplexity and choices; then the same codes."""
    options = comparison.options
    pieces = list(hidden(comparison, [document.text for document in documents]))
    for measured in _compared(comparison, pieces, "fill in with the source"):
        yield comparison.judge(QUALITY, measured)
    answers = comparison.memo["fill in with the source"]
    known = [answers[tuple(piece.ids)] for piece in pieces]
    yield from own.rows(comparison, own.of_tokens(known, [piece.text for piece in pieces]))
    if not comparison.against_codes:
        return
    sizes = np.cumsum([len(piece.ids) for piece in pieces])
    few = pieces[: 1 + int(np.searchsorted(sizes, options.fidelity_tokens))]
    with comparison.same_codes():
        exact = _compared(comparison, few, "fill in with the same codes")
    yield comparison.judge(EXPORT, replace(exact[0], metric="export_kl_mean"))
    yield from _divergences(comparison, few)


def _divergences(comparison: Comparison, few: Sequence[Hidden]) -> Iterator[Row]:
    """`kl_mean` of the same codes in torch, and of the bundle, with the source."""
    ids = [piece.ids for piece in few]
    source = comparison.reference.rows(ids)
    with comparison.same_codes():
        codes = comparison.reference.rows(ids)
    found = comparison.worker.rows(ids, at=[piece.at for piece in few])

    def masked(rows_: Sequence[Float32]) -> list[Float32]:
        return [row[piece.at] for row, piece in zip(rows_, few, strict=True)]

    def divergence(before: Sequence[Float32], after: Sequence[Float32]) -> Measurement:
        return logits.measure(
            (logits.compared(piece.truth, len(piece.at), [one], [other]),
             np.full(len(piece.at), number))
            for number, (piece, one, other) in enumerate(zip(few, before, after, strict=True))
        )[0]  # fmt: skip

    yield from stages.through(
        comparison.chain, masked(source),
        {stages.QUANTIZED: masked(codes), stages.RUNTIME: found},
        lambda one: masked(_rows_of(one, ids)), divergence,
    )  # fmt: skip


class Hidden:
    """A text's tokens with some of them behind a mask: where (`at`), and what they were."""

    def __init__(self, ids: Sequence[int], at: Sequence[int], mask: int, text: str = "") -> None:
        self.text = text
        self.at = list(at)
        self.truth = np.array([ids[place] for place in at], np.int64)
        self.ids = [mask if i in set(at) else token for i, token in enumerate(ids)]


def hidden(comparison: Comparison, texts: Sequence[str]) -> Iterator[Hidden]:
    """Texts with `options.tokens` masks in all, behind every seventh token."""
    options, total = comparison.options, 0
    rng = np.random.default_rng(options.seed)
    mask = int(comparison.worker.hello()["mask_id"])
    for text in texts:
        one = _encoded(comparison, [text])[0]
        plain = [at for at, special in enumerate(one.special[: options.window]) if not special]
        at = plain[int(rng.integers(EVERY)) :: EVERY]
        if not at:
            continue
        yield Hidden(one.ids[: options.window], at, mask, text)
        total += len(at)
        if total >= options.tokens:
            return


def _compared(
    comparison: Comparison, pieces: Sequence[Hidden], what: str
) -> tuple[Measurement, ...]:
    def run(part: Sequence[Hidden]) -> list[TokenRows]:
        return [_behind_masks(comparison, piece) for piece in part]

    rows_ = comparison.each(what, pieces, lambda piece: tuple(piece.ids), run, 1)
    owners = (np.full(len(piece.at), number) for number, piece in enumerate(pieces))
    return logits.measure(zip(rows_, owners, strict=True))


def _behind_masks(comparison: Comparison, piece: Hidden) -> TokenRows:
    source = comparison.reference.rows([piece.ids])[0][piece.at]
    found = comparison.worker.rows([piece.ids], at=[piece.at])[0]
    return logits.compared(piece.truth, len(piece.at), [source], [found])


# text-ranking


def pair_rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Token ids and types of pairs, the order of their scores; then the same codes."""
    pairs = pairs_of([document.text for document in documents], comparison.options.texts)
    encoded = comparison.worker.encode_whole(pairs)
    expected = need(comparison.source_tokens).encode_pairs(pairs)
    shipped = [[*one.ids, *one.types] for one in encoded]
    wrong = tokens.differing([[*ids, *types] for ids, types in expected], shipped)
    yield judged("tokenizer", tokens.measure(len(wrong), len(pairs)), 0.0, "pairs of held-out text")
    if len(pairs) < LEAST_PAIRS:
        why = f"{len(pairs)} pairs of held-out text; give --data with more documents"
        yield unproven(QUALITY, "rank_correlation", why)
        return
    ids, types = [one[0] for one in expected], [one[1] for one in expected]
    source = _scores(comparison, ids, types)
    activated = activate(source[:, None], ranking_activation(comparison.model.config))[:, 0]
    comparison.progress("score with the bundle", 0, 1)
    found = _score(comparison, pairs)
    order = rank.of_scores(activated.astype(float), found)
    yield comparison.judge(QUALITY, order)
    yield from own.rows(comparison, (
        own.Sample(number, float(a), float(b), "\n".join(pair))
        for number, (pair, a, b) in enumerate(zip(pairs, activated, found, strict=True))
    ))  # fmt: skip
    if comparison.against_codes:
        yield from _same_scores(comparison, (ids, types), pairs, source)


def _same_scores(
    comparison: Comparison, encoded: tuple[Ids, Ids], pairs: Sequence[Pair], source: Float32
) -> Iterator[Row]:
    """The logits of some pairs as one vector, against the same codes in torch."""
    few = slice(comparison.options.fidelity_texts)
    ids, types = encoded
    with comparison.same_codes():
        exact = _scores(comparison, ids[few], types[few])
    found = np.concatenate(comparison.worker.rows(ids[few], types[few]))
    value = error.relative_error(exact, found)
    one = Measurement("export_relative_error", value, "", "lower", len(exact))
    yield comparison.judge(EXPORT, one)

    def ask(one: Earlier) -> Float32:
        rows_, kinds = zip(*need(one.tokens).encode_pairs(pairs[few]), strict=True)
        with one.asked() as reference:
            return np.concatenate(reference.rows(rows_, kinds))

    sides = {stages.QUANTIZED: exact, stages.GRAPH: found}
    yield from stages.through(comparison.chain, source[few], sides, ask, stages.erring)


def pairs_of(texts: Sequence[str], count: int) -> list[Pair]:
    """Each of the first `count` / 2 texts with the next one, and its first half with its second."""
    pairs: list[Pair] = []
    for text, following in itertools.pairwise(texts):
        if len(pairs) + 2 > count:
            break
        words = text.split()
        middle = (len(words) + 1) // 2
        pairs += [(text, following), (" ".join(words[:middle]), " ".join(words[middle:]))]
    return pairs


def _score(comparison: Comparison, pairs: Sequence[Pair]) -> Float64:
    return np.asarray(comparison.worker.score(pairs), np.float64)


def _scores(comparison: Comparison, ids: Ids, types: Ids) -> Float32:
    """The reference's logits float32 [n]."""
    comparison.progress("score", 0, 1)
    found = np.concatenate(comparison.reference.rows(ids, types))
    comparison.progress("score", 1, 1)
    return found


# what they share


def _encoded(comparison: Comparison, texts: Sequence[str]) -> list[Encoded]:
    """By the shipped tokenizer, whose ids step 1 compares with the source's."""
    return comparison.worker.encode_whole(texts)


def _bundle_rows(comparison: Comparison, ids: Ids) -> list[Float32]:
    return comparison.each("label with the bundle", ids, tuple, comparison.worker.rows)


def _source_rows(comparison: Comparison, ids: Ids, what: str) -> list[Float32]:
    return comparison.each(what, ids, tuple, comparison.reference.rows)


def _kept(rows_: Sequence[Float32], kept: Sequence[NDArray[np.bool_]]) -> Float32:
    """Rows of all texts' tokens that are kept, one below the other."""
    return np.concatenate([one[keep] for one, keep in zip(rows_, kept, strict=True)])

