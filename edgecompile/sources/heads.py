"""Classifiers with a single label, which score pairs of texts: how the config says it."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile.errors import BadInputError, UnsupportedError

KNOWN = {"Sigmoid": "sigmoid", "Identity": "identity"}  # classes of torch.nn
BEFORE_4 = "sbert_ce_default_activation_function"  # where sentence-transformers 3 wrote it


def has_one_label(config: Mapping[str, Any]) -> bool:
    """Whether a sequence classifier gives one number."""
    return len(config.get("id2label") or ()) == 1 or config.get("num_labels") == 1


def refuse_ranking(folder: Path, config: Mapping[str, Any]) -> None:
    """BadInputError for several labels, UnsupportedError for an activation of its own."""
    if not has_one_label(config):
        count = len(config.get("id2label") or "12")
        raise BadInputError(str(folder), f"{count} labels", "one: text-ranking gives one number",
                            "--task classification")  # fmt: skip
    ranking_activation(config)


def ranking_activation(config: Mapping[str, Any]) -> str:
    """`sigmoid` or `identity`, as sentence-transformers' CrossEncoder chooses for one label.

    The config names a class of torch's; without a name it is the sigmoid. It does not look at
    problem_type.
    """
    table = config.get("sentence_transformers")
    named = table.get("activation_fn") if isinstance(table, Mapping) else None
    named = str(named or config.get(BEFORE_4) or "torch.nn.Sigmoid")
    kind = named.rpartition(".")[2]
    if not named.startswith("torch.nn.") or kind not in KNOWN:
        expected = " or ".join(f"torch.nn.{name}" for name in KNOWN)
        raise UnsupportedError("activation_fn in config.json", repr(named), expected)
    return KNOWN[kind]


def activation_option(task: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The engine option that says how scores become answers; none: softmax over labels."""
    if task == "text-ranking":
        return {"activation": ranking_activation(config)}
    several = config.get("problem_type") == "multi_label_classification"
    return {"activation": "sigmoid"} if several else {}
