"""Encoder-decoders: which the backends take, and what two files of one model hold together."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgecompile.backends import Decoded, ReadWhenAsked
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, float_digest

ARCHITECTURES = ("t5", "whisper")
DECODER = "decoder"  # the graph that a manifest's `file` names


def refusal(model: Model) -> str:
    """Why there are no graphs for it, from config and headers; empty if there are."""
    if model.architecture not in ARCHITECTURES:
        return f"architecture {model.architecture!r} is not one of {', '.join(ARCHITECTURES)}"
    return ""


def joined(parts: Sequence[Decoded]) -> Decoded:
    """What several graphs hold; BadInputError for a tensor that is not the same in all."""

    def quantized(name: str) -> QuantizedTensor:
        found = [part.quantized[name] for part in parts if name in part.quantized]
        if len({one.digest(name) for one in found}) > 1:
            raise BadInputError(name, "other codes in another graph", "the same in all")
        return found[0]

    def dense(name: str) -> Float32:
        found = [part.floats[name] for part in parts if name in part.floats]
        if len({float_digest(name, one, "float32") for one in found}) > 1:
            raise BadInputError(name, "other values in another graph", "the same in all")
        return found[0]

    return Decoded(
        ReadWhenAsked((n for part in parts for n in part.quantized), quantized),
        ReadWhenAsked((n for part in parts for n in part.floats), dense),
        _facts([part.facts for part in parts]),
    )


def _facts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """NaN, which is never right, where graphs disagree."""
    found: dict[str, float] = {}
    for name, value in (pair for part in parts for pair in part.items()):
        found[name] = value if found.get(name, value) == value else math.nan
    return found
