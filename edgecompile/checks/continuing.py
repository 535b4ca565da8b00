"""What a decoder generates, token by token through its cache, beside its own logits at once.

The runtime feeds one token a step and keeps keys and values; given the same tokens at once the same
engine must find each of them the likeliest. A position that is off by one, a cache that another
request left, or a sampler that is not greedy shows in nothing that is compared in whole windows.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edgecompile import tokenizer
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, need
from edgecompile.metrics import Float64, Measurement, generated, kl, mean
from edgecompile.metrics.logits import log_softmax
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row
from edgecompile.text.source_tokens import Piece

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 8, 24, 40
TOGETHER = 16  # prompts that the source answers side by side


class Continued(NamedTuple):
    """One prompt's new tokens: how far each is from the likeliest, in the bundle and the source."""

    tokens: list[int]
    gaps: Float64  # nats, by the bundle's own logits at once
    stepwise: Float64  # divergence of logits step by step from those at once, nats
    source_gaps: Float64 | None  # nats, by the source's where it is in memory


def rows(
    comparison: Comparison, whole: Sequence[Piece], context: int, with_source: bool
) -> Iterator[Row]:
    """`decode_gap`, judged as an export; `greedy_prefix` and `repetition`, measured."""
    size = max(1, min(PROMPT_TOKENS, context // 2))
    prompts = [tuple(piece.ids[:size].tolist()) for piece in whole[:PROMPTS]]
    new = max(1, min(NEW_TOKENS, context - size))
    found = comparison.each("generate", prompts, tuple, lambda part: [
        _continued(comparison, prompt, new, with_source) for prompt in part
    ], 1)  # fmt: skip
    gap = generated.gap([one.gaps for one in found])
    yield comparison.judge(EXPORT, gap)
    stepwise = np.concatenate([one.stepwise for one in found])
    step = Measurement("decode_kl", mean(stepwise), "nats", "lower", len(stepwise))
    yield comparison.judge(EXPORT, step)
    agreed = [one.source_gaps for one in found if one.source_gaps is not None]
    if agreed:
        yield comparison.judge(QUALITY, generated.prefix(agreed, new))
    yield comparison.judge(QUALITY, generated.repetition([one.tokens for one in found]))


def _continued(
    comparison: Comparison, prompt: Sequence[int], new: int, with_source: bool
) -> Continued:
    tokens = comparison.worker.generate_timed(list(prompt), new)["tokens"]
    ids = [*prompt, *tokens]
    first = len(prompt) - 1
    ours = _gaps(comparison.worker.logits(ids), ids, first)
    source = _gaps(comparison.reference.logit_chunks(ids), ids, first) if with_source else None
    return Continued(tokens, ours, _stepwise(comparison, prompt, new), source)


def _stepwise(comparison: Comparison, prompt: Sequence[int], new: int) -> Float64:
    tokens, steps = comparison.worker.steps(prompt, new)
    chunks = comparison.worker.logits([*prompt, *tokens])
    at_once = np.concatenate([log_softmax(chunk) for chunk in chunks])
    return kl.divergences(at_once[len(prompt) - 1 : -1], log_softmax(steps))


def _gaps(chunks: Iterator[Float32], ids: Sequence[int], first: int) -> Float64:
    """Log p of the likeliest token less that of the one that follows, from row `first` on."""
    logs = np.concatenate([log_softmax(chunk) for chunk in chunks])[first : len(ids) - 1]
    chosen = logs[np.arange(len(logs)), ids[first + 1 : first + 1 + len(logs)]]
    gaps: Float64 = logs.max(1) - chosen
    return gaps


def answers(
    comparison: Comparison, prompts: Sequence[tuple[int, ...]], new: int
) -> tuple[list[str], list[str]]:
    """Greedy answers of the bundle and of the source, `new` tokens at most, without stop tokens."""
    stops = set((tokenizer.generation(comparison.model) or {}).get("stop_token_ids", ()))

    def text(ids: Sequence[int]) -> str:
        answer = itertools.takewhile(lambda token: token not in stops, ids)
        return need(comparison.source_tokens).decode(list(answer))

    def asked(ids: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return new, ids

    found = comparison.each("answer", prompts, asked, lambda part: [
        text(comparison.worker.generate_timed(ids, new)["tokens"]) for ids in part
    ], 1)  # fmt: skip
    source = comparison.each("answer with the source", prompts, asked, lambda part: [
        text(ids) for ids in comparison.reference.continue_greedily(part, new, stops)
    ], TOGETHER)  # fmt: skip
    return found, source
