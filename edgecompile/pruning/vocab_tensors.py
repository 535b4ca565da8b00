"""Which of a model's tensors have a row a token, and the model with fewer of them, by headers."""
from __future__ import annotations

import dataclasses
from typing import Any

from edgecompile.architectures import ENCODERS
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.pruning.budget import resized
from edgecompile.structure import filled_in, skeleton

TASKS = (
    "embedding", "classification", "token-classification", "fill-mask", "text-ranking",
    "text-generation",
)  # fmt: skip


def rows_of(model: Model) -> int:
    """Rows of the embedding; UnsupportedError for a task without a vocabulary of its own."""
    if model.task not in TASKS:
        raise UnsupportedError(
            "[prune.vocab]", f"task {model.task}", f"one of {', '.join(TASKS)}", "leave it out"
        )
    return int(filled_in(model).vocab_size)


def tensors_of(model: Model) -> tuple[str, ...]:
    """Names of the embedding, of an untied head, and of the head's bias."""
    from edgecompile.numerics.swap import parameter_names

    module, rows = skeleton(model), rows_of(model)
    whole: set[int] = set()
    for side in (module.get_input_embeddings(), module.get_output_embeddings()):  # type: ignore[operator]
        if side is not None:
            whole |= {id(one) for one in side.parameters() if one.shape[0] == rows}
    modules = {name for name, one in module.named_parameters(remove_duplicate=False)
               if id(one) in whole}  # fmt: skip
    names = parameter_names(module, model.weights)
    found = {name for name in model.weights if names.get(name) in modules}
    found |= set(_beside(model)) & set(model.weights)
    return tuple(n for n in model.weights
                 if n in found and model.weights.infos[n].shape[0] == rows)  # fmt: skip


def _beside(model: Model) -> tuple[str, ...]:
    """Tensors of a head that the task has no place for, and biases that a module ties."""
    described = ENCODERS.get(model.architecture)
    if described is None:
        return ()
    head = described.word_head
    return (f"{head.out}.weight", f"{head.out}.bias", head.bias)


def with_rows(model: Model, rows: int, config: dict[str, Any]) -> Model:
    """Headers and config with so many rows a vocabulary."""
    there = tensors_of(model)
    shapes = {
        name: (rows, *info.shape[1:]) if name in there else info.shape
        for name, info in model.weights.infos.items()
    }  # fmt: skip
    config = {**config, "vocab_size": rows}
    return dataclasses.replace(model, weights=resized(model, shapes), config=config)


def fixed_ids(model: Model) -> set[int]:
    """Ids that cannot change: where positions count from the padding's, all up to it."""
    described, padding = ENCODERS.get(model.architecture), model.config.get("pad_token_id")
    if described is None or not described.after_padding:
        return set()
    return set(range((1 if padding is None else int(padding)) + 1))
