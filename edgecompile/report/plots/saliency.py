"""Which tokens the answer hangs on, in source and bundle."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.report.plots import finite

LONGEST = 64  # tokens that are drawn


@dataclass(frozen=True)
class Token:
    """A token's two shares as bars in per cent of the largest."""

    text: str
    source: float
    found: float


@dataclass(frozen=True)
class Saliency:
    """Tokens in order, those of an answer last; `named` where their text may be shown."""

    tokens: tuple[Token, ...]
    correlation: float | None
    named: bool
    answer: int = 0
    why: str = ""  # there is none; empty otherwise


def saliency(explained: Mapping[str, Any]) -> Saliency | None:
    """None where explain.json says nothing of it."""
    part = explained.get("saliency")
    if not isinstance(part, Mapping):
        return None
    if "why" in part:
        return Saliency((), None, named=False, why=str(part["why"]))
    source, found = (finite(part.get(side) or ()) for side in ("source", "found"))
    top = max([*source, *found], default=0.0)
    if not source or len(source) != len(found) or top <= 0:
        return None
    names = [str(token) for token in part.get("tokens", ())]
    named = len(names) == len(source)
    tokens = [
        Token(names[n] if named else str(n), 100 * one / top, 100 * found[n] / top)
        for n, one in enumerate(source[:LONGEST])
    ]
    answer = min(int(part.get("answer", 0)), len(tokens))
    rho = finite([part.get("correlation")])
    return Saliency(tuple(tokens), rho[0] if rho else None, named, answer)
