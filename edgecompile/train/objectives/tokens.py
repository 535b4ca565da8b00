"""A tag a white-space word, learned at the word's first token: cross entropy, entity-level F1."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgecompile.checks.heads import word_tags
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.metrics import f1
from edgecompile.runtime.tokens import Encoded
from edgecompile.train.data import Example, names_of
from edgecompile.train.objectives import Batch, Item, Numbers
from edgecompile.train.objectives.texts import (
    IGNORED,
    Texts,
    cross_entropy,
    labelled,
    unchanged,
    with_labels,
    without_labels,
)


@dataclass
class TokenLabels(Texts):
    """`labels` are the tags in the order of the module's outputs. Texts are never augmented."""

    labels: tuple[str, ...] = ()
    measure: str = "f1"

    def __post_init__(self) -> None:
        """Refuse tags that do not fit their text, before the first step."""
        if self.augment is not unchanged:
            found = "augmentation of tagged texts"
            raise UnsupportedError("train.augment", found, way_out="leave [train.augment] out")
        for row in (*self.data.training, *self.data.held_out):
            words, tags = len(row.text.split()), len(names_of(row))
            if words != tags:
                found = f"{tags} tags for {words} words"
                raise BadInputError(row.where, found, "a tag a white-space word")

    def item(self, row: Example, text: str) -> Item:
        """Token ids, and the tag's number at each word's first token."""
        [found] = self.tokenizer.encode_whole([text])
        numbers = [self.labels.index(name) for name in names_of(row)]
        labels = [IGNORED if word < 0 else numbers[word] for word in first_tokens(text, found)]
        return {"ids": found.ids, "types": found.types, "labels": labels}

    def weight(self, items: Sequence[Item]) -> float:
        """Tokens with a tag."""
        return labelled(items)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Ids, mask, types and labels int64 [rows, longest]."""
        return with_labels(items, self.pad, self.typed)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """Cross entropy summed over tagged tokens; how many were right."""
        labels = batch["labels"]
        logits = module(**without_labels(batch)).logits
        right = (logits.argmax(-1) == labels) & (labels != IGNORED)
        return cross_entropy(logits, labels), {"accuracy": float(right.sum())}

    def evaluate(self, module: nn.Module) -> Numbers:
        """Accuracy of words, and F1 of entities (0 where there are none)."""
        if not self.held_out:
            return {}
        truth, answers = [], []
        for row in self.held_out:
            [found] = self.tokenizer.encode_whole([row.text])
            batch = without_labels(self.collate([self.item(row, row.text)]))
            inputs = {name: value.to(self.device) for name, value in batch.items()}
            numbers = module(**inputs).logits[0].argmax(-1).tolist()
            answers.append(word_tags(row.text, found, [self.labels[n] for n in numbers]))
            truth.append(names_of(row))
        pairs = [(a, b) for one, two in zip(truth, answers, strict=True)
                 for a, b in zip(one, two, strict=True)]  # fmt: skip
        score = f1.f1(truth, answers)
        right = sum(a == b for a, b in pairs) / len(pairs)
        return {"accuracy": right, "f1": 0.0 if math.isnan(score) else score}


def first_tokens(text: str, found: Encoded) -> list[int]:
    """The white-space word that begins at each token; -1 within a word and at special tokens."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    words, seen = [], -1
    for (_, end), special in zip(found.offsets, found.special, strict=True):
        owner = sum(start < end for start in starts) - 1 if not special else -1
        words.append(owner if owner > seen else -1)
        seen = max(seen, owner)
    return words
