"""Step `kept` where the smaller model has fewer tokens than the one that came in.

Distributions are compared over the tokens that both have; perplexity is that of the same text, each
side in its own tokens, for a word that is cut anew costs more (decisions/0013-vocabulary.md).
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edgecompile.checks.comparison import Comparison, need
from edgecompile.checks.renumbered import Renumbered
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement, perplexity
from edgecompile.metrics.logits import log_softmax
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.text.source_tokens import FolderTokens

BY_TOKEN = ("text-generation", "fill-mask", "token-classification")  # asked in tokens, not in text
PER_TEXT = ("perplexity_ratio", "perplexity", "perplexity_source")
CHARACTERS = 2  # of a piece, for each token that fits: it then fits in both vocabularies


def same_text(comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Measurement]:
    """Perplexities of the same pieces of text, all over the origin's number of tokens.

    The ratio is exp((the bundle's nats - the origin's) / the origin's tokens).
    """
    reference, new = comparison.reference, need(comparison.source_tokens)
    assert isinstance(reference, Renumbered)
    old, options = FolderTokens(comparison.model, 0), comparison.options
    size = min(options.window, context - 1)
    old_start, new_start = _starts(comparison.model, reference)
    source = found = 0.0
    count = 0
    for piece in pieces(texts, CHARACTERS * size):
        before = _begun(old.encode([piece])[0], old_start)
        after = _begun(new.encode([piece])[0], new_start)
        if max(len(before), len(after)) > size:
            continue
        comparison.progress("compare whole texts", min(count, options.tokens), options.tokens)
        source += nats(reference.whole_logits(before), before)
        found += nats(comparison.worker.logits(after), after)
        count += len(before) - 1
        if count >= options.tokens:
            break
    comparison.progress("compare whole texts", options.tokens, options.tokens)
    whole = (found - source, found, source)
    for name, total in zip(PER_TEXT, whole, strict=True):
        value = float(np.exp(total / count)) if count else float("nan")
        yield Measurement(name, value, "", "lower", count)


def pieces(texts: Iterable[str], longest: int) -> Iterator[str]:
    """Texts cut before a space into pieces of at most so many characters, where there is one."""
    for text in texts:
        rest = text.strip()
        while len(rest) > longest:
            at = rest.rfind(" ", 1, longest)
            at = at if at > 0 else longest
            yield rest[:at]
            rest = rest[at:]
        if rest:
            yield rest


def _starts(origin: Model, reference: Renumbered) -> tuple[int, int]:
    """A token that both sides see before a text: it begins, or ends, all that they learned."""
    for key in ("bos_token_id", "eos_token_id"):
        value = origin.config.get(key)
        value = value[0] if isinstance(value, list) and value else value
        ids = reference.old_ids.tolist()
        if isinstance(value, int) and value in ids:
            return value, ids.index(value)
    raise BadInputError(
        origin.source.reference, "no bos_token_id and no eos_token_id that is a token",
        "one of them in config.json",
    )  # fmt: skip


def _begun(ids: list[int], start: int) -> list[int]:
    """The ids after the start token, which a tokenizer may have put there itself."""
    return ids if ids[:1] == [start] else [start, *ids]


def nats(chunks: Iterable[Float32], ids: Sequence[int]) -> float:
    """The sum of -log p of all ids but the first."""
    total, done, truth = 0.0, 0, np.array(ids[1:], np.int64)
    for chunk in chunks:
        following = truth[done : done + len(chunk)]
        logs = log_softmax(chunk)[: len(following)]
        total += float(perplexity.surprisals(logs, following).sum())
        done += len(chunk)
    return total
