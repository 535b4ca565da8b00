"""Does the shipped sampler draw as its options say, and does the shipped text say what ids say?"""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from edgecompile import tokenizer
from edgecompile.checks.comparison import EXPORT, Comparison, need
from edgecompile.errors import UsageError
from edgecompile.metrics import Float64
from edgecompile.report import Row, exact, unproven
from edgecompile.statistics.exact import chi_square_p

# One in a million: drawn with a fixed seed, so that the same bundle always gives the same answer.
UNLIKELY = 1e-6
DRAWS, TOKENS = 2000, 12
TEMPERATURES = (0.7, 1.5)
PROMPTS, WORDS, NEW_TOKENS = 3, 8, 24


def rows(comparison: Comparison, texts: Sequence[str]) -> Iterator[Row]:
    """`sampler_differing` and `written_differing`, exact; nothing of what it generates is kept."""
    try:
        yield exact(EXPORT, "sampler_differing", list(_samplers(comparison)), len(TEMPERATURES))
        prompts = [" ".join(text.split()[:WORDS]) for text in texts[:PROMPTS]]
        wrong = [str(number) for number, prompt in enumerate(prompts)
                 if not _says_its_ids(comparison, prompt)]  # fmt: skip
        yield exact(EXPORT, "written_differing", wrong, len(prompts))
    except UsageError:  # sealed before these requests were known
        yield unproven(EXPORT, "sampler_differing", "the bundle's runtime is older: build again")


def _samplers(comparison: Comparison) -> Iterator[str]:
    logits = np.linspace(2.0, -3.0, TOKENS, dtype=np.float32)
    for temperature in TEMPERATURES:
        found = comparison.worker.sample(logits, DRAWS, temperature=temperature, seed=1)
        weights = np.exp(logits.astype(np.float64) / temperature)
        counts: Float64 = np.bincount(found, minlength=TOKENS).astype(np.float64)
        p_value = chi_square_p(counts[:TOKENS], weights / weights.sum() * DRAWS)
        if p_value < UNLIKELY or len(counts) > TOKENS:
            yield f"at temperature {temperature} p = {p_value:.1g}"


def _says_its_ids(comparison: Comparison, prompt: str) -> bool:
    """Whether text and ids of the same greedy answer are one by the source's tokenizer."""
    text, ids = comparison.worker.write(prompt, NEW_TOKENS)
    stops = (tokenizer.generation(comparison.model) or {}).get("stop_token_ids", ())
    answer = list(itertools.takewhile(lambda token: token not in stops, ids))
    return need(comparison.source_tokens).decode(answer).strip() == text.strip()
