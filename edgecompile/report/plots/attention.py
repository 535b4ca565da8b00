"""Attention of source and bundle side by side, and how far each head's is apart."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.report.plots import finite, png


@dataclass(frozen=True)
class Pair:
    """One head's two maps as pictures, queries downwards and keys to the right."""

    layer: int
    head: int
    divergence: float
    source: str
    found: str
    tokens: int


@dataclass(frozen=True)
class Heads:
    """Divergence by head (downwards) and layer as a picture, the worst heads' maps beside it."""

    picture: str
    layers: int
    heads: int
    top: float
    worst: str
    pairs: tuple[Pair, ...]
    tokens: tuple[str, ...]
    why: str  # there is none; empty otherwise


def attention(explained: Mapping[str, Any]) -> Heads | None:
    """None where explain.json says nothing of attention."""
    part = explained.get("attention")
    if not isinstance(part, Mapping):
        return None
    if "why" in part:
        return Heads("", 0, 0, 0.0, "", (), (), str(part["why"]))
    table = [list(row) for row in part.get("divergence", ()) if isinstance(row, Sequence)]
    cells = finite([cell for row in table for cell in row])
    if not cells:
        return None
    top = max(cells)
    layer, head = next(
        (at, row.index(top)) for at, row in enumerate(table) if top in row
    )
    pairs = [_pair(one) for one in part.get("maps", ()) if isinstance(one, Mapping)]
    tokens = tuple(str(token) for token in part.get("tokens", ()))
    turned = [list(column) for column in zip(*table, strict=False)]  # layers to the right
    return Heads(
        png.data_uri(turned, top), len(table), len(table[0]), top, f"layer {layer}, head {head}",
        tuple(pair for pair in pairs if pair.source and pair.found), tokens, "",
    )  # fmt: skip


def _pair(one: Mapping[str, Any]) -> Pair:
    source, found = one.get("source") or [], one.get("found") or []
    cells = finite([cell for side in (source, found) for row in side for cell in row])
    top = max(cells, default=1.0)
    divergence = finite([one.get("divergence")])
    return Pair(
        int(one.get("layer", 0)), int(one.get("head", 0)), divergence[0] if divergence else 0.0,
        png.data_uri(source, top), png.data_uri(found, top), len(source),
    )  # fmt: skip
