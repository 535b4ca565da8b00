"""Attention maps of source and bundle side by side, and how far each head's are apart."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.explain.inputs import Inputs, shown
from edgecompile.explain.sides import Sides
from edgecompile.explain.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 32  # tokens of the input whose maps are shown
HEADS = 8  # maps that are shown, those of the largest divergence
CALLS = 4  # of held-out inputs that divergences are a mean over
ROWS = 4  # texts or windows of each


@dataclass(frozen=True)
class ShownInput:
    """A short input: its ids, and its tokens where they may be shown."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]  # empty where they are the user's


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
    """Jensen-Shannon divergence by layer and head [layers, heads] in nats, mean over queries."""

    divergence: NDArray[np.float64]
    queries: int
    tokens: tuple[str, ...]
    maps: tuple[Map, ...]


def shown_input(subject: Subject) -> ShownInput | None:
    """The text given, else the first held-out one, cut to LONGEST tokens."""
    from edgecompile.text.source_tokens import FolderTokens

    if not shown(subject.model):
        return None
    options = subject.options
    texts = [options.text] if options.text else [d.text for d in subject.corpus.held_out]
    text = next((one for one in texts if one.strip()), None)
    if text is None:
        return None
    tokens = FolderTokens(subject.model, 0)
    ids = tokens.encode([text])[0]
    if len(ids) > LONGEST:  # the special tokens at the end stay
        end = _ending(tokens.encode([""])[0], ids)
        ids = [*ids[: LONGEST - len(end)], *end]
    built_in = not options.text and subject.corpus.name == "docstrings"
    names = _names(subject, ids) if built_in or options.with_text else []
    return ShownInput(tuple(ids), tuple(names))


def _ending(special: Sequence[int], ids: Sequence[int]) -> list[int]:
    """The special tokens that close a text."""
    count = 0
    while count < len(special) - 1 and special[-1 - count] == ids[-1 - count]:
        count += 1
    return list(special[len(special) - count :])


def _names(subject: Subject, ids: Sequence[int]) -> list[str]:
    """Tokens as the tokenizer's file spells them."""
    from tokenizers import Tokenizer

    file = Tokenizer.from_file(str(subject.model.folder / "tokenizer.json"))
    return [file.id_to_token(token) or "" for token in ids]


def compare(
    subject: Subject, sides: Sides, inputs: Sequence[Inputs], text: ShownInput | None
) -> Attention | str:
    """Both sides' maps of some inputs; a sentence where the model shows none."""
    if subject.model.task == "module":
        return "a module of the user's own has no attention that can be asked for"
    sums, queries = None, 0
    for one in _few(inputs):
        both = _both(sides, one)
        if both is None:
            return f"{subject.model.architecture} shows no attention"
        kept = _queries(one)
        found = np.stack([_divergence(a, b, kept) for a, b in zip(*both, strict=True)])
        count = int(kept.sum()) if kept is not None else both[0][0].shape[0] * both[0][0].shape[2]
        sums, queries = found if sums is None else sums + found, queries + count
    if sums is None:
        return "no inputs"
    divergence = sums / queries
    tokens = text.tokens if text else ()
    return Attention(divergence, queries, tokens, tuple(_maps(sides, text, divergence)))


def _few(inputs: Sequence[Inputs]) -> Iterator[dict[str, Any]]:
    for one in inputs[:CALLS]:
        yield {n: v if isinstance(v, bool) else v[:ROWS] for n, v in one.named.items()}


def _both(sides: Sides, named: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]] | None:
    """Maps [batch, heads, queries, keys] by layer; None where the model gives none."""
    source = _run(sides, named)
    with sides.compressed():
        found = _run(sides, named)
    return (source, found) if source and found else None


def _run(sides: Sides, named: dict[str, Any]) -> list[Tensor]:
    import inspect

    import torch

    body = sides.body
    parameters = inspect.signature(body.forward).parameters
    if "output_attentions" not in parameters and not any(
        one.kind is one.VAR_KEYWORD for one in parameters.values()
    ):
        return []
    with torch.inference_mode():
        result = body(**named, output_attentions=True)
    maps = getattr(result, "attentions", None) or ()
    return [one for one in maps if one is not None and one.ndim == 4]


def _queries(named: dict[str, Any]) -> Tensor | None:
    """bool [batch, queries]: those that are no padding."""
    mask = named.get("attention_mask")
    return None if mask is None else mask.bool()


def _divergence(source: Tensor, found: Tensor, kept: Tensor | None) -> NDArray[np.float64]:
    """Jensen-Shannon divergences [heads] in nats, added up over queries (Lin 1991, eq. 3.1)."""
    import torch

    p, q = source.double(), found.double()
    middle = (p + q) / 2
    both = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(middle, middle)
    of_query = (both.sum(3) / 2).clamp(min=0)  # [batch, heads, queries]
    if kept is not None:
        of_query = of_query * kept[:, None, :]
    total: NDArray[np.float64] = of_query.sum((0, 2)).numpy()
    return total


def _maps(
    sides: Sides, text: ShownInput | None, divergence: NDArray[np.float64]
) -> Iterator[Map]:
    """The heads that differ most, on the shown input."""
    import torch

    if text is None:
        return
    both = _both(sides, {"input_ids": torch.tensor([list(text.ids)])})
    if both is None:
        return
    order = np.argsort(-divergence, axis=None)[:HEADS]
    for layer, head in zip(*np.unravel_index(order, divergence.shape), strict=True):
        source, found = (side[layer][0, head].numpy() for side in both)
        yield Map(int(layer), int(head), float(divergence[layer, head]), source, found)
