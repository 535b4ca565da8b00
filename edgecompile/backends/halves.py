"""Models of several graphs: which the backends take, and what their files hold together."""
from __future__ import annotations

import math
from collections.abc import Mapping

from edgecompile.backends import Decoded, ReadWhenAsked
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, float_digest
from edgecompile.tasks import IMAGE_TEXT, SPEECH, TEXT_TO_TEXT

ARCHITECTURES: Mapping[str, tuple[str, ...]] = {  # by task
    TEXT_TO_TEXT: ("t5",), SPEECH: ("whisper",), IMAGE_TEXT: ("clip",),
}  # fmt: skip


def refusal(model: Model) -> str:
    """Why there are no graphs for it, from config and headers; empty if there are."""
    known = ARCHITECTURES[model.task]
    if model.architecture not in known:
        return f"architecture {model.architecture!r} is not one of {', '.join(known)}"
    if model.task == IMAGE_TEXT and not isinstance(end := model.text_config["eos_token_id"], int):
        return f"text_config.eos_token_id is {end!r}: a text's vector is that of one end token"
    return ""


def main_file(files: Mapping[str, str]) -> str:
    """Of graphs' files by name the one that a manifest's `file` names: the last."""
    return list(files.values())[-1]


def joined(graphs: Mapping[str, Decoded]) -> Decoded:
    """What graphs hold, by name; BadInputError for a tensor that is not the same in all."""
    parts = list(graphs.values())

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
        _facts({name: part.facts for name, part in graphs.items()}),
    )


def _facts(graphs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each graph's behind its name, as `text.norm_eps`, for configs of a part a graph; and plain.

    A plain one is NaN, which is never right, where graphs disagree.
    """
    found: dict[str, float] = {}
    for graph, facts in graphs.items():
        for name, value in facts.items():
            found[f"{graph}.{name}"] = value
            found[name] = value if found.get(name, value) == value else math.nan
    return found
