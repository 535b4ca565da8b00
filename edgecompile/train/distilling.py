"""What a distillation starts from: student, teacher, what is compared, and rows of text."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgecompile.calibration.batches import longest
from edgecompile.calibration.walk import fast_attention
from edgecompile.errors import BadInputError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.swap import parameter_names
from edgecompile.passes import Work
from edgecompile.pruning import vocab
from edgecompile.reference import Reference
from edgecompile.structure import filled_in
from edgecompile.text.parts import Document
from edgecompile.text.source_tokens import FolderTokens, windows
from edgecompile.tokenizer import class_name, labels
from edgecompile.train.objectives import Item
from edgecompile.train.objectives.distillation import (
    ASKED,
    Distillation,
    Kind,
    Weights,
    asked_of,
)
from edgecompile.train.order import seed_of
from edgecompile.train.source import is_dropout
from edgecompile.train.teacher import Teacher
from edgecompile.train.watched import Wanted, Watched, blocks_of, mapped, relation_heads

if TYPE_CHECKING:
    from edgecompile.passes.teaching import TeachingOptions

TEACHER = "teacher"  # the folder of its answers
KINDS: Mapping[str, Kind] = {
    "embedding": "vectors", "classification": "classes", "text-generation": "tokens",
}  # fmt: skip
HELD_TEXTS, HELD_TOKENS = 256, 8192


def prepared(
    options: TeachingOptions, model: Model, origin: Model, work: Work
) -> tuple[Watched, Distillation]:
    """The student, ready to be trained, and what it learns; the teacher's answers on disk."""
    train = options.options()
    torch.manual_seed(seed_of(train.seed, "distill"))  # of the maps between widths
    bodies = [_body(model, train.dropout), _body(origin, 0.0)]
    layers = mapped(blocks_of(bodies[0]), blocks_of(bodies[1]))
    last = {max(layers): layers[max(layers)]}  # MiniLM: relations of the last layer
    hidden = layers if options.hidden else {}
    related = last if options.relations else {}
    width = int(filled_in(origin).hidden_size)
    student = Watched(
        model, bodies[0], Wanted(tuple(hidden), tuple(related)), dict.fromkeys(hidden, width)
    )
    watched = Watched(origin, bodies[1], Wanted(tuple(hidden.values()), tuple(related.values())))
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    old, corpus = vocab.old_ids(model, origin), work.corpus()
    by_token = KINDS[model.task] == "tokens" or bool(hidden or related)
    teacher = Teacher(watched if old is None or not by_token else InOldIds(watched, old, model))
    reader = origin if old is not None and not by_token else None
    texts, held = (
        list(_rows(options, model, part, limit, reader)) for part, limit in
        ((corpus.calibration, options.texts), (corpus.tuning, _held(options, model)))
    )  # fmt: skip
    where = f"[{options.name}]"
    if not texts:
        raise BadInputError(where, "no calibration text", "text", "give more with --data")
    weights = Weights(options.soft, options.task, options.hidden, options.relations)
    if weights.task and model.task == "embedding":
        raise UsageError(f"{where} task", "an embedding has no labels here", "0")
    if weights.task and model.task == "classification" and "label" not in texts[0]:
        raise UsageError(f"{where} task", "texts without labels", "0, or --data with labels")
    names = set(Reference(model).input_names) if model.task != "text-generation" else set()
    objective = Distillation(
        texts, held, teacher, KINDS[model.task], weights, options.temperature,
        hidden, related, relation_heads(options.heads, model, origin),
        int(model.config.get("pad_token_id") or 0), "token_type_ids" in names,
        int(origin.config.get("pad_token_id") or 0), train.seed,
    )  # fmt: skip
    if not (hidden or related) and options.cache_mb:
        _keep(objective, options, work)
    return student, objective


def _held(options: TeachingOptions, model: Model) -> int:
    """Rows that measure: of a decoder each is a window, and every token of it a measurement."""
    if options.tuning:
        return options.tuning
    decoder = model.task == "text-generation"
    return max(1, HELD_TOKENS // options.length) if decoder else HELD_TEXTS


def _body(model: Model, dropout: float) -> nn.Module:
    """transformers' class of the task with the model's weights; dropout below 0: as the config."""
    if dropout >= 0:
        config = {n: dropout if is_dropout(n, model.config) else v for n, v in model.config.items()}
        model = dataclasses.replace(model, config=config)
    return Reference(model, fast_attention(model)).body


def _keep(objective: Distillation, options: TeachingOptions, work: Work) -> None:
    """The teacher's answers of the first rows, each computed by itself."""
    rows = [asked_of(objective.collate([item])) for item in objective.texts]
    objective.teacher.keep(
        rows, work.folder / TEACHER, int(options.cache_mb * 1e6),
        lambda done, total: work.progress("ask the teacher", done, total),
    )  # fmt: skip


class InOldIds(nn.Module):
    """A teacher asked in the ids of a student with fewer tokens: a decoder answers in them too.

    What it says of tokens that the student lacks is left out; a softmax shares that out.
    """

    old: Tensor

    def __init__(self, module: nn.Module, old_ids: Sequence[int], model: Model) -> None:
        super().__init__()
        self.module, self.answers_tokens = module, model.task == "text-generation"
        self.register_buffer("old", torch.tensor(list(old_ids)), persistent=False)

    def forward(self, input_ids: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """As Watched.forward."""
        found: dict[str, Tensor] = self.module(input_ids=self.old[input_ids], **inputs)
        if self.answers_tokens:
            found["answers"] = found["answers"][..., self.old]
        return found


def _rows(
    options: TeachingOptions, model: Model, documents: Sequence[Document], limit: int,
    reader: Model | None,
) -> Iterator[Item]:  # fmt: skip
    """Token ids of whole texts, or windows of a decoder; a label where all have one.

    Of a `reader`, a teacher with other tokens, also the ids that it would read.
    """
    documents = [document for document in documents if document.text.strip()]
    size = longest(model, options.length)
    tokens = FolderTokens(model, size)
    if model.task == "text-generation":
        total = (limit or 1 << 30) * size
        for piece in windows(tokens, [d.text for d in documents], size, total)[: limit or None]:
            yield {"ids": piece.tolist(), "types": [0] * len(piece)}
        return
    documents = documents[: limit or None]
    labelled = model.task == "classification" and all(d.label is not None for d in documents)
    names, whole = labels(model.config) if labelled else [], [d.text for d in documents]
    asked = FolderTokens(reader, size).encode(whole) if reader and whole else []
    for number, (document, ids) in enumerate(zip(documents, tokens.encode(whole), strict=True)):
        row: dict[str, object] = {"ids": ids, "types": [0] * len(ids)}
        if reader is not None:
            row[ASKED] = {"ids": asked[number], "types": [0] * len(asked[number])}
        if labelled:
            row["label"] = names.index(class_name(document.label or "", names))
        yield row


def tensors(student: nn.Module, model: Model) -> dict[str, Tensor]:
    """The trained tensors by source name, in the dtype that the source has them in."""
    assert isinstance(student, Watched)
    values = student.body.state_dict()
    names = parameter_names(student.body, model.weights)
    return {
        source: values[name].detach().to(model.weights[source].dtype).contiguous()
        for source, name in names.items()
    }
