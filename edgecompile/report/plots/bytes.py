"""What the bundle's bytes are for: groups of tensors, the graph, tokenizer and runtime."""
from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.numerics.schemes import Scheme

# The first that fits a tensor's name: a norm within attention is a norm.
GROUPS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("norms", r"norm|(^|\.)ln_|(^|[._])bn\d*(\.|$)|running_(mean|var)"),
        ("embedding", r"embed|(^|\.)wte|(^|\.)wpe|^shared\."),
        ("attention", r"attn|attention|\.[qkvo]_proj|\.qkv"),
        ("mlp", r"mlp|ffn|feed_forward|intermediate|output\.dense|\.fc\d|DenseReluDense|"
                r"(gate|up|down)_proj|experts"),
        ("convolutions", r"conv"),
        ("head", r"head|classifier|score|pooler|(^|[._])fc\."),
    )
)  # fmt: skip
ORDER = (*(name for name, _ in GROUPS), "other tensors")
# Bits a weight of llama.cpp's own types, scales included (ggml's block sizes).
OWN_TYPES = {
    "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_0": 5.5, "Q5_1": 6.0, "Q4_K": 4.5, "Q4_0": 4.5,
    "Q4_1": 5.0, "Q3_K": 3.4375, "Q2_K": 2.625, "IQ4_NL": 4.5, "IQ4_XS": 4.25,
}  # fmt: skip
FLOATS = {"float32": 32, "float16": 16, "bfloat16": 16, "float64": 64}


@dataclass(frozen=True)
class Part:
    """Bytes of a group, their share of all in per cent, and whether they are tensors."""

    name: str
    bytes: float
    share: float
    tensors: bool
    count: int  # of tensors or files
    widest: float  # of the largest part, in per cent: the bar's length


def parts(manifest: Mapping[str, Any]) -> list[Part]:
    """Groups in the order of size; the graph is what the model's files hold beyond.

    Wider scales, sums of codes and padding of an engine's own are in it, too.
    """
    held: dict[str, tuple[float, int]] = {}
    for name, size in _tensors(manifest):
        group = group_of(name)
        before = held.get(group, (0.0, 0))
        held[group] = (before[0] + size, before[1] + 1)
    tensors = set(held)
    found = sum(size for size, _ in held.values())
    files = _files(manifest)
    model, count = files.pop("model", (0.0, 0))
    if model > found:
        files["graph and layout"] = (model - found, count)
    total = sum(size for size, _ in [*held.values(), *files.values()])
    ordered = sorted({**held, **files}.items(), key=lambda item: -item[1][0])
    largest = ordered[0][1][0] if ordered else 1.0
    return [
        Part(name, size, 100 * size / total, name in tensors, n, 100 * size / largest)
        for name, (size, n) in ordered if size > 0
    ]  # fmt: skip


def group_of(name: str) -> str:
    """By the tensor's name."""
    return next((group for group, found in GROUPS if found.search(name)), ORDER[-1])


def _tensors(manifest: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    shared = manifest.get("engine", {}).get("options", {}).get("shared", {})
    for row in manifest.get("tensors", ()):
        yield row["name"], _codes(row)
    for row in manifest.get("floats", ()):
        bits = FLOATS.get(row["dtype"]) or OWN_TYPES.get(row["dtype"], 0.0)
        if row["name"] not in shared:  # stored once, under another name
            yield row["name"], math.prod(row["shape"]) * bits / 8


def _codes(row: Mapping[str, Any]) -> float:
    """Codes, and scales of 16 bits."""
    shape = row["shape"]
    rows, columns = shape[0], math.prod(shape[1:])
    scheme = Scheme.parse(row["scheme"])
    return float(math.ceil(rows * columns * scheme.bits / 8) + 2 * rows * scheme.groups(columns))


def _files(manifest: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for file in manifest.get("files", ()):
        top = str(file["path"]).partition("/")[0]
        top = top if top in ("model", "tokenizer", "runtime") else "notes and golden inputs"
        size, count = found.get(top, (0.0, 0))
        found[top] = (size + file["bytes"], count + 1)
    return found
