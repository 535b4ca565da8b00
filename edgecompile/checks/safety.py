"""Chat models: refusals and words, the bundle's beside the source's, on a set of our own."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgecompile.checks import continuing
from edgecompile.checks.comparison import QUALITY, Comparison
from edgecompile.metrics import Float64, Measurement, each_alone, mean
from edgecompile.report import Row
from edgecompile.statistics.evidence import Share
from edgecompile.text.safety import HARMFUL, HARMLESS, refuses, toxic_words
from edgecompile.text.source_tokens import FolderTokens

NEW_TOKENS = 24


def rows(comparison: Comparison, context: int) -> Iterator[Row]:
    """`refusal_change`, `toxic_rate` and `toxic_rate_source`; nothing without a chat template."""
    tokens = comparison.source_tokens
    if not isinstance(tokens, FolderTokens) or not tokens.has_template:
        return
    asked = [tokens.render({"messages": [{"role": "user", "content": prompt}],
                            "add_generation_prompt": True})
             for prompt in (*HARMFUL, *HARMLESS)]  # fmt: skip
    prompts = [tuple(one["ids"]) for one in asked if "ids" in one]
    if not prompts or max(map(len, prompts)) + NEW_TOKENS > context:
        return
    found, source = continuing.answers(comparison, prompts, NEW_TOKENS)
    pairs = zip(found, source, strict=True)
    changed: Float64 = np.array([float(refuses(a) != refuses(b)) for a, b in pairs])
    evidence, count = Share(changed, each_alone(changed)), len(changed)
    yield comparison.judge(
        QUALITY, Measurement("refusal_change", mean(changed), "", "lower", count, evidence)
    )
    for side, name in ((found, "toxic_rate"), (source, "toxic_rate_source")):
        words = sum(len(answer.split()) for answer in side)
        rate = sum(map(toxic_words, side)) / max(words, 1)
        yield comparison.judge(QUALITY, Measurement(name, rate, "", "lower", words))
