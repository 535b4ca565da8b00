"""The next token of texts, the answer to a text, or the words behind masks."""
from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from edgecompile.errors import UnsupportedError
from edgecompile.train.data import Example
from edgecompile.train.objectives import Batch, Draw, Item, Numbers
from edgecompile.train.objectives.texts import (
    IGNORED,
    Texts,
    cross_entropy,
    labelled,
    unchanged,
    with_labels,
    without_labels,
)
from edgecompile.train.order import seed_of


@dataclass
class LanguageModel(Texts):
    """Windows of `length` tokens of the texts one after the other; with pairs, answers alone.

    `end` is the token after a text. A pair's second text is learned, given the first.
    """

    length: int = 512
    end: int | None = None
    windows: Sequence[Item] = field(default_factory=tuple)
    held_out_windows: Sequence[Item] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Cut both parts into windows."""
        if self.augment is not unchanged:
            found = "augmentation of a language model's texts"
            raise UnsupportedError("train.augment", found, way_out="leave [train.augment] out")
        self.windows = self._windows(self.data.training)
        self.held_out_windows = self._windows(self.data.held_out)

    def _windows(self, rows: Sequence[Example]) -> list[Item]:
        if rows and rows[0].pair is not None:
            return [self._answer(row) for row in rows]
        stream: list[int] = []
        for row in rows:
            stream += [*self._ids(row.text, special=True), *self._end()]
        cut = [stream[at : at + self.length] for at in range(0, len(stream), self.length)]
        return [{"ids": ids, "labels": ids} for ids in cut if len(ids) > 1]

    def _answer(self, row: Example) -> Item:
        """A prompt's tokens, not learned, and its answer's; the prompt's start is cut off."""
        answer = [*self._ids(row.pair or "", special=False), *self._end()][: self.length - 1]
        prompt = self._ids(row.text, special=True)[-(self.length - len(answer)) :]
        return {"ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}

    def _ids(self, text: str, special: bool) -> list[int]:
        return self.tokenizer.encode([text], special=special)[0]

    def _end(self) -> list[int]:
        return [] if self.end is None else [self.end]

    @property
    def rows(self) -> int:
        """Windows, or pairs, to train on."""
        return len(self.windows)

    def items(self, draws: Sequence[Draw]) -> Sequence[Item]:
        """The drawn windows."""
        return [self.windows[draw.row] for draw in draws]

    def weight(self, items: Sequence[Item]) -> float:
        """Tokens that are predicted: all with a label, but for a first one."""
        return labelled([{"labels": item["labels"][1:]} for item in items])

    def collate(self, items: Sequence[Item]) -> Batch:
        """Ids, mask and labels int64 [rows, longest]."""
        return with_labels(items, self.pad, False)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """Cross entropy of each token after those before it, summed."""
        logits = module(**without_labels(batch), use_cache=False).logits[:, :-1]
        return cross_entropy(logits, batch["labels"][:, 1:]), {}

    def evaluate(self, module: nn.Module) -> Numbers:
        """Mean cross entropy and perplexity of the held-out tokens."""
        items = self.held_out_windows
        if not items:
            return {}
        return perplexity(self, module, items)


@dataclass
class MaskedWords(Texts):
    """`share` of the tokens are to be guessed: 8 in 10 masked, 1 another, 1 as it is.

    Devlin et al. 2019, section 3.1. The choice is drawn from the row's place in the run.
    """

    mask: int = 0
    share: float = 0.15
    vocabulary: int = 1

    def items(self, draws: Sequence[Draw]) -> Sequence[Item]:
        """The drawn rows, augmented, with tokens hidden."""
        found = []
        for draw in draws:
            text = self.augment(self.data.training[draw.row].text, draw.seen)
            found.append(self.hidden(text, random.Random(seed_of(self.seed, "mask", draw.seen))))
        return found

    def item(self, row: Example, text: str) -> Item:
        """A held-out row: what is hidden depends on its text alone."""
        return self.hidden(text, random.Random(seed_of("mask", row.key)))

    def hidden(self, text: str, draw: random.Random) -> Item:
        """Token ids with some hidden, and what they were."""
        [found] = self.tokenizer.encode_whole([text])
        ids, labels = list(found.ids), [IGNORED] * len(found.ids)
        plain = [at for at, special in enumerate(found.special) if not special]
        for at in draw.sample(plain, min(len(plain), max(1, round(self.share * len(plain))))):
            labels[at], lot = ids[at], draw.random()
            ids[at] = self.mask if lot < 0.8 else ids[at]
            ids[at] = draw.randrange(self.vocabulary) if lot >= 0.9 else ids[at]
        return {"ids": ids, "types": found.types, "labels": labels}

    def weight(self, items: Sequence[Item]) -> float:
        """Hidden tokens."""
        return labelled(items)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Ids, mask, types and labels int64 [rows, longest]."""
        return with_labels(items, self.pad, self.typed)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """Cross entropy of the hidden tokens, summed."""
        return cross_entropy(module(**without_labels(batch)).logits, batch["labels"]), {}

    def evaluate(self, module: nn.Module) -> Numbers:
        """Mean cross entropy and perplexity of hidden tokens of the held-out rows."""
        if not self.held_out:
            return {}
        return perplexity(self, module, [self.item(row, row.text) for row in self.held_out])


def perplexity(objective: Any, module: nn.Module, items: Sequence[Item]) -> Numbers:
    """Mean loss a counted token, and its exponential."""
    total = 0.0
    for item in items:
        batch = {n: v.to(objective.device) for n, v in objective.collate([item]).items()}
        total += float(objective.loss(module, batch)[0])
    mean = total / max(1.0, objective.weight(items))
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}
