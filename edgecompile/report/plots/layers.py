"""The error that a pass made in each tensor: a row a kind of tensor, a bar a block."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecompile.report.plots import finite

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_BITS = re.compile(r"(\d+)")
ROWS = 24  # kinds that are drawn, those of the largest error


@dataclass(frozen=True)
class Bar:
    """A tensor: left edge, width, height in per cent; `nearest` is rounding's own height."""

    left: float
    width: float
    height: float
    nearest: float | None
    name: str
    scheme: str
    error: float

    @property
    def block(self) -> str:
        """The numbers in its name, those of its block."""
        return ".".join(_NUMBER.findall(self.name))


@dataclass(frozen=True)
class Kind:
    """Tensors of one role, in the order of the blocks."""

    name: str
    bars: tuple[Bar, ...]
    worst: Bar
    schemes: str


@dataclass(frozen=True)
class LayerErrors:
    """What one pass did; `top` is the error of a bar of full height."""

    stage: str
    of: str  # weights, outputs
    kinds: tuple[Kind, ...]
    top: float
    left_out: int  # kinds beyond ROWS
    compared: bool  # with rounding to nearest


def layer_errors(passes: Sequence[Any]) -> list[LayerErrors]:
    """The passes of a manifest that measured an error in some tensor."""
    found = []
    for one in passes:
        if not isinstance(one, Mapping):
            continue
        rows = [row for row in one.get("layers", ()) if _measured(row)]
        if rows:
            found.append(_drawn(str(one.get("name", "")), rows))
    return found


def _measured(row: Any) -> bool:
    if not isinstance(row, Mapping) or row.get("action") != "changed":
        return False
    return any(error > 0 for error in finite([row.get("error")]))


def _drawn(name: str, rows: Sequence[Mapping[str, Any]]) -> LayerErrors:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(role(str(row["name"])), []).append(row)
    top = max(float(row["error"]) for row in rows)
    nearest = [near for row in rows for near in finite([row.get("nearest")])]
    top = max([top, *nearest])
    kinds = sorted(
        (_kind(role_, held, top) for role_, held in groups.items()), key=lambda k: -k.worst.error
    )
    of = "outputs" if any(row.get("of") == "outputs" for row in rows) else "weights"
    left_out = max(len(kinds) - ROWS, 0)
    return LayerErrors(name, of, tuple(kinds[:ROWS]), top, left_out, bool(nearest))


def role(name: str) -> str:
    """A tensor's name with the numbers of blocks as stars."""
    return _NUMBER.sub("*", name).removesuffix(".weight")


def _natural(row: Mapping[str, Any]) -> list[int]:
    return [int(part) for part in _BITS.findall(str(row["name"]))]


def _kind(name: str, rows: Sequence[Mapping[str, Any]], top: float) -> Kind:
    ordered = sorted(rows, key=_natural)
    width = 100 / max(len(ordered), 12)
    bars = tuple(_bar(row, n * width, width, top) for n, row in enumerate(ordered))
    schemes = ", ".join(sorted({bar.scheme for bar in bars}))
    return Kind(name, bars, max(bars, key=lambda bar: bar.error), schemes)


def _bar(row: Mapping[str, Any], left: float, width: float, top: float) -> Bar:
    error = float(row["error"])
    near = finite([row.get("nearest")])
    return Bar(
        round(left + width * 0.1, 3), round(width * 0.8, 3), round(100 * error / top, 2),
        round(100 * near[0] / top, 2) if near else None,
        str(row["name"]), str(row.get("detail", "")), error,
    )  # fmt: skip
