"""Choosing the next token from logits: greedy, or sampled with a seed, alike in every engine."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from .errors import EdgecompileError, UsageError

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class SamplingOptions:
    """In the order they apply (as transformers does): penalty, temperature, top_k, top_p, min_p.

    temperature 0 is greedy; top_k 0 keeps all; top_p and min_p are probabilities in [0, 1].
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "min_p": (0 <= self.min_p < 1, "from 0 to below 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise UsageError(name, repr(getattr(self, name)), rule)


class SamplingKeywords(TypedDict, total=False):
    """The same options, as keywords of `Session.generate`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int


class Sampler:
    """One generation's choices; the same seed gives the same tokens for the same logits."""

    def __init__(self, options: SamplingOptions, prompt: Sequence[int] = ()) -> None:
        self._options = options
        self._random = np.random.Generator(np.random.PCG64(options.seed))
        self._seen = set(prompt) if options.repetition_penalty != 1.0 else None

    def choose(self, logits: Float32) -> int:
        """The next token for logits float32 [vocab], which stay as they are."""
        if self._seen is not None:
            logits = _penalize(logits, self._seen, self._options.repetition_penalty)
        token = int(logits.argmax())
        if np.isnan(logits[token]):  # argmax finds the first NaN there is
            raise EdgecompileError("logits", f"not a number at token {token}", "numbers")
        if self._options.temperature:
            token = self._draw(logits)
        if self._seen is not None:
            self._seen.add(token)
        return token

    def _draw(self, logits: Float32) -> int:
        tokens, probabilities = candidates(logits, self._options)
        cumulative = np.cumsum(probabilities)
        # One draw a token whatever the candidates are: streams of one seed stay aligned.
        at = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(tokens[min(int(at), len(tokens) - 1)])


def candidates(logits: Float32, options: SamplingOptions) -> tuple[NDArray[np.intp], Float32]:
    """Tokens that may be chosen, likeliest first (ties: lowest id), with their probabilities.

    The probabilities are float32 [n] of the whole vocabulary's softmax: they sum to 1 or less.
    """
    scaled = (logits - logits.max()) / np.float32(options.temperature)
    weights = np.exp(scaled)
    tokens = _most_likely(weights, options)
    kept = weights[tokens]
    total = (kept if options.top_k else weights).sum(dtype=np.float64)
    probabilities = (kept / total).astype(np.float32)
    last = len(tokens)
    if options.top_p < 1:
        last = int(np.searchsorted(np.cumsum(probabilities), options.top_p, side="left")) + 1
    if options.min_p:
        enough = int((probabilities >= options.min_p * probabilities[0]).sum())
        last = min(last, enough)
    return tokens[: max(1, last)], probabilities[: max(1, last)]


def _most_likely(weights: Float32, options: SamplingOptions) -> NDArray[np.intp]:
    """Ids sorted by falling weight: top_k of them, or all that top_p and min_p could keep."""
    size = weights.size
    if options.top_k:
        size = min(options.top_k, size)
    elif options.top_p < 1:
        size = _nucleus_bound(weights, options.top_p)
    if size < weights.size:
        smallest = np.partition(weights, weights.size - size)[weights.size - size]
        chosen = np.flatnonzero(weights >= smallest)
    else:
        chosen = np.arange(weights.size)
    return chosen[np.argsort(-weights[chosen], kind="stable")][:size]


def _nucleus_bound(weights: Float32, top_p: float) -> int:
    """A number of likeliest tokens that surely hold top_p: sorting a whole vocabulary is slow."""
    wanted = top_p * float(weights.sum(dtype=np.float64)) * (1 + 1e-6)
    size = 256
    while size < weights.size:
        largest = np.partition(weights, weights.size - size)[weights.size - size :]
        if float(largest.sum(dtype=np.float64)) > wanted:
            return size
        size *= 8
    return weights.size


def _penalize(logits: Float32, seen: set[int], penalty: float) -> Float32:
    """CTRL (Keskar et al. 2019), section 4.1, with negative logits multiplied instead."""
    ids = np.fromiter(seen, np.int64, len(seen))
    changed = logits.copy()
    values = changed[ids]
    changed[ids] = np.where(values > 0, values / penalty, values * penalty)
    return changed
