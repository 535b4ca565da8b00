"""Attention maps of source and bundle side by side, and how far each head's are apart."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.explain.inputs import Inputs
from edgecompile.explain.shown import LONGEST, ShownInput
from edgecompile.explain.sides import Sides
from edgecompile.explain.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

HEADS = 8  # maps that are shown, those of the largest divergence
ROWS = 4  # texts or windows of each call
SAMPLES = 16  # of held-out inputs that divergences are a mean over
AT_ONCE = 256  # queries whose products are held at once
MAPS = 4 << 30  # bytes of both sides' maps of one sound

# What a model calls its attention, and of which tokens its queries and its keys are.
FIELDS: Mapping[str, tuple[str, str, str]] = {
    "attentions": ("self-attention", "input_ids", "input_ids"),
    "encoder_attentions": ("encoder self-attention", "input_ids", "input_ids"),
    "decoder_attentions": ("decoder self-attention", "decoder_input_ids", "decoder_input_ids"),
    "cross_attentions": ("cross-attention", "decoder_input_ids", "input_ids"),
    "text_model_output": ("text self-attention", "input_ids", "input_ids"),
    "vision_model_output": ("picture self-attention", "pixel_values", "pixel_values"),
}
Maps = dict[str, list["Tensor"]]  # by field: [batch, heads, queries, keys] a layer


@dataclass(frozen=True)
class Map:
    """One head's attention on the shown input, float32 [queries, keys], both sides."""

    layer: int
    head: int
    divergence: float
    source: NDArray[np.float32]
    found: NDArray[np.float32]


@dataclass(frozen=True)
class Attention:
    """Jensen-Shannon divergence by layer and head [layers, heads] in nats, mean over queries.

    `name` says which of a model's attentions it is; `tokens` are its queries', `keys` its keys'.
    """

    name: str
    divergence: NDArray[np.float64]
    queries: int
    tokens: tuple[str, ...]
    keys: tuple[str, ...]
    maps: tuple[Map, ...]


@dataclass
class _Sums:
    """Divergences [layers, heads] added up over queries, and how many those were."""

    total: NDArray[np.float64] | float = 0.0
    queries: int = 0

    def add(self, source: list[Tensor], found: list[Tensor], mask: Tensor | None) -> None:
        """One call's maps by layer; `mask` [batch, queries] is 0 where a text was padded."""
        kept = None if mask is None else mask.bool()
        pairs = zip(source, found, strict=True)
        self.total = self.total + np.stack([_divergence(a, b, kept) for a, b in pairs])
        first = source[0]
        self.queries += int(kept.sum()) if kept is not None else first.shape[0] * first.shape[2]


def compare(
    subject: Subject, sides: Sides, inputs: Sequence[Inputs], shown: ShownInput | None
) -> tuple[Attention, ...] | str:
    """Both sides' maps of some inputs, by part; a sentence where the model shows none."""
    if subject.model.task == "module":
        return "a module of the user's own has no attention that can be asked for"
    if (size := _size(subject)) > MAPS:
        return f"both sides' maps of one sound have {size / 2**30:.1f} GiB: not measured"
    sums: dict[str, _Sums] = {}
    for one in _few(inputs):
        source, found = _both(sides, one)
        for name in source.keys() & found.keys():
            mask = one.get("attention_mask")
            sums.setdefault(name, _Sums()).add(source[name], found[name], mask)
    if not sums:
        return f"{subject.model.architecture} shows no attention"
    both = _both(sides, shown.named) if shown else ({}, {})
    most = -(-HEADS // len(sums))
    return tuple(
        _part(name, sums[name], shown, _maps(sums[name], both, name, most))
        for name in FIELDS if name in sums
    )  # fmt: skip


def _size(subject: Subject) -> int:
    """Bytes of both sides' maps of one window of sound, which cannot be cut."""
    if subject.model.audio is None:
        return 0
    config, places = subject.model.config, subject.model.audio.frames // 2
    maps = int(config.get("encoder_layers", 0)) * int(config.get("encoder_attention_heads", 0))
    return 2 * 4 * maps * places * places


def _few(inputs: Sequence[Inputs]) -> Iterator[dict[str, Any]]:
    """Some rows of each call, SAMPLES in all."""
    left = SAMPLES
    for one in inputs:
        if left <= 0:
            return
        rows = min(ROWS, left)
        yield {n: v if isinstance(v, bool) else v[:rows] for n, v in one.named.items()}
        left -= min(rows, one.rows)


def _both(sides: Sides, named: Mapping[str, Any]) -> tuple[Maps, Maps]:
    """Both sides' maps of one call; empty where the model gives none."""
    source = _run(sides, named)
    with sides.compressed():
        return source, _run(sides, named)


def _run(sides: Sides, named: Mapping[str, Any]) -> Maps:
    import inspect

    import torch

    body = sides.body
    parameters = inspect.signature(body.forward).parameters
    if "output_attentions" not in parameters and not any(
        one.kind is one.VAR_KEYWORD for one in parameters.values()
    ):
        return {}
    with torch.inference_mode():
        result = body(**named, output_attentions=True)
    found = {}
    for name in FIELDS:
        value = getattr(result, name, None)
        maps = getattr(value, "attentions", value) or ()  # a tower has an output of its own
        if kept := [one for one in maps if one is not None and one.ndim == 4]:
            found[name] = kept
    return found


def _divergence(source: Tensor, found: Tensor, kept: Tensor | None) -> NDArray[np.float64]:
    """Jensen-Shannon divergences [heads] in nats, added up over queries (Lin 1991, eq. 3.1)."""
    import torch

    parts = []
    sides = (torch.split(one, AT_ONCE, 2) for one in (source, found))
    for a, b in zip(*sides, strict=True):
        p, q = a.double(), b.double()
        middle = (p + q) / 2
        both = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(middle, middle)
        parts.append((both.sum(3) / 2).clamp(min=0))
    of_query = torch.cat(parts, 2)  # [batch, heads, queries]
    if kept is not None:
        of_query = of_query * kept[:, None, :]
    total: NDArray[np.float64] = of_query.sum((0, 2)).numpy()
    return total


def _part(
    name: str, sums: _Sums, shown: ShownInput | None, maps: Iterable[Map]
) -> Attention:
    title, queries, keys = FIELDS[name]
    words = shown.tokens if shown else {}
    return Attention(
        title, np.asarray(sums.total / sums.queries), sums.queries, words.get(queries, ()),
        words.get(keys, ()), tuple(maps),
    )  # fmt: skip


def _maps(sums: _Sums, both: tuple[Maps, Maps], name: str, most: int) -> Iterator[Map]:
    """The heads that differ most, on the shown input."""
    if any(name not in side for side in both):
        return
    divergence = np.asarray(sums.total / sums.queries)
    order = np.argsort(-divergence, axis=None)[:most]
    for layer, head in zip(*np.unravel_index(order, divergence.shape), strict=True):
        source, found = (_in_blocks(side[name][layer][0, head].numpy()) for side in both)
        yield Map(int(layer), int(head), float(divergence[layer, head]), source, found)


def _in_blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most LONGEST by LONGEST: the mean of a block's queries, the sum of a block's keys."""
    starts = [
        np.linspace(0, size, min(size, LONGEST), endpoint=False).astype(int)
        for size in values.shape
    ]
    together = np.add.reduceat(np.add.reduceat(values, starts[0], 0), starts[1], 1)
    counts = np.diff([*starts[0], len(values)])
    blocks: NDArray[np.float32] = (together / counts[:, None]).astype(np.float32)
    return blocks
