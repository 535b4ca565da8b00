"""From a task and its data to the objective that learns it, and the labels of its head."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile import tokenizer
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.sources.heads import ranking_activation
from edgecompile.train import source
from edgecompile.train.data import Augment, Data, class_names
from edgecompile.train.objectives import Objective
from edgecompile.train.objectives.classification import Classification
from edgecompile.train.objectives.language_model import LanguageModel, MaskedWords
from edgecompile.train.objectives.pairs import Embeddings, Scores
from edgecompile.train.objectives.texts import unchanged
from edgecompile.train.objectives.tokens import TokenLabels
from edgecompile.train.options import TrainOptions

LABELLED = ("classification", "token-classification")


@dataclass(frozen=True)
class Lesson:
    """One task to learn: the model as one of that task, its rows, its labels."""

    model: Model
    data: Data
    options: TrainOptions
    labels: tuple[str, ...] = ()
    augment: Augment = unchanged


def task_for(data: Data, own: str) -> str:
    """The task that the labels show: tags, classes; else the source's own."""
    labels = [row.label for row in data.training]
    if own == "embedding" and data.training[0].pair is not None:
        return own
    if all(isinstance(label, list) for label in labels):
        return "token-classification"
    if own in ("", "embedding", "fill-mask") and all(label is not None for label in labels):
        scored = any(isinstance(label, float) for label in labels)
        return own if scored and own else "text-ranking" if scored else "classification"
    return own


def labels_of(task: str, data: Data) -> tuple[str, ...]:
    """Names of the head's outputs; none where the task has no new head."""
    if task == "text-ranking":
        return ("score",)
    return class_names(data, "tag" if "token" in task else "label") if task in LABELLED else ()


def objective_of(lesson: Lesson) -> Objective:
    """The task's objective on the lesson's rows."""
    task = lesson.model.task
    if task not in MAKERS:
        found = f"training for {task}"
        raise UnsupportedError("--task", found, f"one of {', '.join(MAKERS)}")
    return MAKERS[task](lesson)


def _shared(lesson: Lesson) -> dict[str, Any]:
    config, options = lesson.model.config, lesson.options
    return {
        "data": lesson.data, "tokenizer": source.tokens_of(lesson.model, options.length),
        "pad": int(config.get("pad_token_id") or 0), "seed": options.seed,
        "typed": int(config.get("type_vocab_size") or 0) > 1, "augment": lesson.augment,
    }  # fmt: skip


def _classification(lesson: Lesson) -> Objective:
    smoothing = lesson.options.label_smoothing
    return Classification(**_shared(lesson), labels=lesson.labels, smoothing=smoothing)


def _tokens(lesson: Lesson) -> Objective:
    return TokenLabels(**_shared(lesson), labels=lesson.labels)


def _scores(lesson: Lesson) -> Objective:
    if ranking_activation(lesson.model.config) != "sigmoid":
        found = "a cross-encoder without a sigmoid"
        raise UnsupportedError(lesson.model.name, found, "scores from 0 to 1 through one")
    return Scores(**_shared(lesson))


def _embeddings(lesson: Lesson) -> Objective:
    mode = lesson.model.pooling.mode if lesson.model.pooling else "mean"
    return Embeddings(**_shared(lesson), mode=mode, contrast=lesson.options.contrast)


def _language_model(lesson: Lesson) -> Objective:
    length = lesson.options.length or min(source.longest(lesson.model), source.LONGEST)
    shared = _shared(lesson) | {"tokenizer": source.tokens_of(lesson.model, -1)}
    end = lesson.model.config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    found = LanguageModel(**shared, length=length, end=end)
    if not found.rows:
        where = lesson.data.training[0].where
        raise BadInputError(where, "fewer than two tokens to train on", "more text")
    return found


def _masked_words(lesson: Lesson) -> Objective:
    text = tokenizer.tokenizer_json(lesson.model.folder)
    shared = _shared(lesson)
    token = shared["tokenizer"].id_of(tokenizer.mask_token(lesson.model.folder, text))
    size = int(lesson.model.config["vocab_size"])
    share = lesson.options.mask
    return MaskedWords(**shared, mask=token, share=share, vocabulary=size)


MAKERS: Mapping[str, Callable[[Lesson], Objective]] = {
    "classification": _classification, "token-classification": _tokens, "text-ranking": _scores,
    "embedding": _embeddings, "text-generation": _language_model, "fill-mask": _masked_words,
}  # fmt: skip
