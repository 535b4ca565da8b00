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
    """Divergence by head (downwards) and layer as a picture, the worst heads' maps beside it.

    `name` says which of a model's attentions it is; `keys` are tokens where they are others.
    """

    name: str
    picture: str
    layers: int
    heads: int
    top: float
    worst: str
    pairs: tuple[Pair, ...]
    tokens: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Attention:
    """Each part of a model that attends, or why there is none."""

    parts: tuple[Heads, ...]
    why: str = ""


def attention(explained: Mapping[str, Any]) -> Attention | None:
    """None where explain.json says nothing of attention. One of format 1 has a single part."""
    part = explained.get("attention")
    if not isinstance(part, Mapping):
        return None
    if "why" in part:
        return Attention((), str(part["why"]))
    parts = [_heads(one) for one in part.get("parts", [part]) if isinstance(one, Mapping)]
    known = tuple(one for one in parts if one is not None)
    return Attention(known) if known else None


def _heads(part: Mapping[str, Any]) -> Heads | None:
    """None where nothing was measured."""
    table = [list(row) for row in part.get("divergence", ()) if isinstance(row, Sequence)]
    cells = finite([cell for row in table for cell in row])
    if not cells:
        return None
    top = max(cells)
    layer, head = next(
        (at, row.index(top)) for at, row in enumerate(table) if top in row
    )
    pairs = [_pair(one) for one in part.get("maps", ()) if isinstance(one, Mapping)]
    tokens, keys = (tuple(map(str, part.get(name, ()))) for name in ("tokens", "keys"))
    turned = [list(column) for column in zip(*table, strict=False)]  # layers to the right
    return Heads(
        str(part.get("name", "self-attention")), png.data_uri(turned, top), len(table),
        len(table[0]), top, f"layer {layer}, head {head}",
        tuple(pair for pair in pairs if pair.source and pair.found), tokens,
        keys if keys != tokens else (),
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
