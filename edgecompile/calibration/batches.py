"""Text and pictures as a model's inputs, many in one call."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.modules import build_entry_point
from edgecompile.passes import uncalibrated
from edgecompile.reference import BATCH
from edgecompile.tasks import HALVES, IMAGE_TEXT, TASKS
from edgecompile.text.parts import Document
from edgecompile.text.pictures import open_picture
from edgecompile.text.source_tokens import FolderTokens, windows
from edgecompile.tokenizer import class_name, labels

BATCH_TOKENS = 2048  # run through a block at once


@dataclass(frozen=True)
class Batch:
    """One call's inputs; `mask` bool [batch, length] is False where a text was padded."""

    inputs: Mapping[str, Any]
    mask: Tensor | None = None


def text_batches(
    model: Model, documents: Sequence[Document], texts: int, length: int
) -> list[Batch]:
    """The task's inputs: windows of `length` tokens for a decoder, else whole texts or pictures.

    A module is calibrated on its own example inputs.
    """
    if TASKS[model.task].takes == "arrays":
        examples = build_entry_point(model.entry_point).examples
        return [Batch({name: torch.from_numpy(array) for name, array in examples.items()})]
    if model.task in HALVES:
        raise uncalibrated(model.task)
    if model.task == IMAGE_TEXT:
        raise UnsupportedError(
            "calibration", f"task {model.task}: two rows of blocks, of texts and of pictures",
            "a model of one row of blocks", "--set quantize.method=rtn",
        )  # fmt: skip
    if TASKS[model.task].takes == "picture":
        return _picture_batches(model, documents[:texts])
    written = [document.text for document in documents if document.text.strip()]
    if not written:
        raise _nothing(documents)
    tokens = FolderTokens(model, longest(model, length))
    if model.task == "text-generation":
        pieces = windows(tokens, written, longest(model, length), texts * length)
        if not pieces:
            raise _nothing(documents)
        whole = [piece for piece in pieces if len(piece) == len(pieces[0])][:texts]
        rows = torch.from_numpy(np.stack(whole))
        parts = torch.split(rows, _rows(length))
        return [Batch({"input_ids": part, "use_cache": False}) for part in parts]
    ids = sorted(tokens.encode(written[:texts]), key=len)
    size = _rows(length)
    return [_padded(model, ids[start : start + size]) for start in range(0, len(ids), size)]


def labels_of(
    model: Model, documents: Sequence[Document], texts: int, length: int
) -> list[Tensor]:
    """Class numbers int64 [texts] of a classifier's batches, as `text_batches` orders them."""
    labelled = [document for document in documents if document.text.strip()][:texts]
    names = labels(model.config)
    numbers = [names.index(class_name(document.label or "", names)) for document in labelled]
    ids = FolderTokens(model, longest(model, length)).encode([d.text for d in labelled])
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    ordered = torch.tensor([numbers[index] for index in order])
    return list(torch.split(ordered, _rows(length)))


def _picture_batches(model: Model, documents: Sequence[Document]) -> list[Batch]:
    if model.pictures is None or not documents:
        raise _nothing(documents)
    pixels = model.pictures.prepare([open_picture(document) for document in documents])
    return [Batch({"pixel_values": part}) for part in torch.split(torch.from_numpy(pixels), BATCH)]


def _nothing(documents: Sequence[Document]) -> BadInputError:
    return BadInputError(
        "calibration", f"{len(documents)} documents with less than two tokens in all",
        "text", "give more with --data",
    )  # fmt: skip


def longest(model: Model, length: int) -> int:
    """Tokens of a window: as asked for, at most what the model takes."""
    pooled = model.pooling.max_length if model.pooling else 0
    allowed = int(pooled or model.common_config.get("max_position_embeddings") or length)
    return min(length, allowed)


def _rows(length: int) -> int:
    return max(1, BATCH_TOKENS // length)


def _padded(model: Model, ids: Sequence[Sequence[int]]) -> Batch:
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), int(model.config.get("pad_token_id") or 0))
    mask = torch.zeros((len(ids), width), dtype=torch.int64)
    for index, row in enumerate(ids):
        tokens[index, : len(row)] = torch.tensor(list(row))
        mask[index, : len(row)] = 1
    return Batch({"input_ids": tokens, "attention_mask": mask}, mask.bool())
