"""A tiny classifier's data, module and objective, made in a moment."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile import sources
from edgecompile.train import source
from edgecompile.train.data import Keys, read
from edgecompile.train.objectives.classification import Classification
from tests import tiny

LABELS = ("animal", "number", "text")
WORDS = {
    "animal": ["fox", "dog", "quick", "brown"], "number": ["numbers", "1234567890", "symbols"],
    "text": ["decoder", "learns", "write", "read", "again"],
}  # fmt: skip


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Texts of three classes, of which each has words of its own among those that all have."""
    draw, found = random.Random(seed), []
    for index in range(count):
        label = LABELS[index % 3]
        words = [*draw.choices(WORDS[label], k=2), *draw.choices(tiny.TEXT.split(), k=3)]
        draw.shuffle(words)
        found.append({"text": " ".join(words) + f" {index % 7}", "label": label})
    return found


def data_file(folder: Path, count: int = 60, seed: int = 0) -> Path:
    """The rows as JSON lines."""
    file = folder / f"rows-{count}-{seed}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(count, seed)), "utf-8")
    return file


def bert(folder: Path, **changes: Any) -> Path:
    """A tiny BERT without dropout unless asked for, so that processes draw nothing."""
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny.bert(folder, **settings | changes)


def classifier(folder: Path, file: Path, seed: int = 0) -> tuple[nn.Module, Classification]:
    """A module with a new head, and its objective."""
    ref = sources.resolve(str(folder), task="classification")
    model = source.source_model(ref, "classification", lambda *_: None)
    torch.manual_seed(seed)
    data = read(file, Keys(), None, 0.2)
    module = source.module_of(model, LABELS)
    tokens = source.tokens_of(model, 0)
    objective = Classification(data, tokens, typed=True, seed=seed, labels=LABELS)
    return module, objective



