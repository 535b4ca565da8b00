"""The steps of a check, each giving rows; `edgecompile.check` runs them in order."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgecompile.metrics.own import OwnMetric
from edgecompile.recipe import CheckSpec
from edgecompile.target import Budget

# Bytes of a decoder's float32 weights that may be read anew for every window of text; of larger
# ones each block is read once and all windows go through it.
STREAM_ABOVE = 2 << 30


@dataclass(frozen=True)
class Limits:
    """How much to measure, limits stricter than the rule's by metric, what is allowed by name."""

    texts: int = 256  # held-out texts (embedding, classification)
    tokens: int = 4096  # held-out tokens (text-generation)
    answers: int = 64  # prompts that a decoder answers for metrics of the user's own
    answer_tokens: int = 48  # of each answer, at most
    window: int = 512  # tokens of one window
    fidelity_texts: int = 64
    fidelity_tokens: int = 1024
    repeats: int = 20  # timed calls of an encoder; generation is timed 3 times
    new_tokens: int = 64
    seed: int = 0
    threads: int | None = None
    stream_above: int = STREAM_ABOVE  # bytes
    stricter: Mapping[str, float] = field(default_factory=dict)
    allow: tuple[str, ...] = ()
    metrics: tuple[OwnMetric, ...] = ()  # the user's own

    @classmethod
    def of(
        cls, spec: CheckSpec, budget: Budget, allow: Iterable[str] = (),
        metrics: Iterable[OwnMetric] = (),
    ) -> Limits:  # fmt: skip
        """A recipe's [check], a target's [budget] (0 is no limit), and --allow names."""
        stated = {
            "size": budget.size_mb, "peak_memory": budget.memory_mib,
            "first_token": budget.first_token_ms, "latency": budget.latency_ms,
        }  # fmt: skip
        stricter = {name: limit for name, limit in stated.items() if limit} | dict(spec.limits)
        return cls(
            spec.texts, spec.tokens, answers=spec.answers, answer_tokens=spec.answer_tokens,
            stricter=stricter, allow=tuple(allow), metrics=tuple(metrics),
        )  # fmt: skip
