"""Token ids: a bundle's must be the source's, each one."""
from __future__ import annotations

from collections.abc import Sequence

from edgecompile.metrics import Measurement


def differing(
    source: Sequence[Sequence[int]], found: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Indices of the texts whose ids differ; every text when the counts do."""
    if len(source) != len(found):
        return tuple(range(max(len(source), len(found))))
    pairs = enumerate(zip(source, found, strict=True))
    return tuple(index for index, (a, b) in pairs if list(a) != list(b))


def measure(wrong: int, texts: int) -> Measurement:
    """`tokenizer_differences`: texts whose ids differ; the limit is 0."""
    value = float(wrong) if texts else float("nan")
    return Measurement("tokenizer_differences", value, "texts", "lower", texts)
