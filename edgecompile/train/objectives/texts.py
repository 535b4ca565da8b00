"""What objectives on texts share: drawing rows, tokens, batches, the held-out rows."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgecompile.runtime.tokens import Tokens
from edgecompile.train import order
from edgecompile.train.data import Augment, Data, Example
from edgecompile.train.objectives import Batch, Draw, Item, Numbers

EVALUATED = 32  # rows at once
IGNORED = -100  # the label of a token that teaches nothing; cross_entropy's own default


def unchanged(text: str, _seen: int) -> str:
    """No augmentation."""
    return text


@dataclass
class Texts:
    """Rows of texts; a subclass says what an item is, what is lost, and what is measured.

    `typed`: the module takes token types. `augment` changes the first text of training rows.
    """

    data: Data
    tokenizer: Tokens
    pad: int = 0
    typed: bool = False
    seed: int = 0
    augment: Augment = unchanged
    measure: str = "loss"
    partial: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.training)

    @property
    def held_out(self) -> Sequence[Example]:
        """Rows that training does not see."""
        return self.data.held_out

    def start(self, device: torch.device) -> None:
        """Remember where the module is."""
        self.device = device

    def draws(self, step: int, count: int) -> Sequence[Draw]:
        """The step's rows: every epoch in another order."""
        return order.draws(self.rows, self.seed, step * count, count)

    def items(self, draws: Sequence[Draw]) -> Sequence[Item]:
        """The drawn rows with their text augmented."""
        rows = [(self.data.training[draw.row], draw.seen) for draw in draws]
        return [self.item(row, self.augment(row.text, seen)) for row, seen in rows]

    def item(self, row: Example, text: str) -> Item:
        """One row as numbers, with `text` for its own."""
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Batch:
        """Items as tensors."""
        raise NotImplementedError

    def tokens(self, text: str, pair: str | None = None) -> Item:
        """`ids` and `types` of a text or a pair, special tokens included."""
        [found] = self.tokenizer.encode_whole([text if pair is None else (text, pair)])
        return {"ids": found.ids, "types": found.types}

    def held_out_batches(self) -> Iterator[Batch]:
        """Held-out rows of like length together, on the module's device; short ones first."""
        items = [self.item(row, row.text) for row in self.held_out]
        items.sort(key=lambda item: len(item["ids"]))
        for start in range(0, len(items), EVALUATED):
            batch = self.collate(items[start : start + EVALUATED])
            yield {n: v.to(self.device) if isinstance(v, Tensor) else v for n, v in batch.items()}

    def better(self, new: Numbers, old: Numbers) -> bool:
        """By the objective's main measure; a loss is better where it is lower."""
        lower = self.measure == "loss"
        a, b = new.get(self.measure, 0.0), old.get(self.measure, 0.0)
        return a < b if lower else a > b


def padded(items: Sequence[Item], pad: int, typed: bool) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and perhaps `token_type_ids`, int64 [rows, longest]."""
    names = {"input_ids": ("ids", pad)}
    names |= {"token_type_ids": ("types", 0)} if typed else {}
    found = {
        name: filled([item[key] for item in items], fill) for name, (key, fill) in names.items()
    }
    found["attention_mask"] = filled([[1] * len(item["ids"]) for item in items], 0)
    return found


def filled(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """int64 [rows, longest], short rows filled up at their ends."""
    table = torch.full((len(rows), max(map(len, rows))), fill)
    for index, row in enumerate(rows):
        table[index, : len(row)] = torch.tensor(list(row))
    return table


def labelled(items: Sequence[Item]) -> float:
    """How many tokens have a label."""
    return float(sum(label != IGNORED for item in items for label in item["labels"]))


def with_labels(items: Sequence[Item], pad: int, typed: bool) -> dict[str, Tensor]:
    """As `padded`, with `labels` int64 [rows, longest], a number a token."""
    labels = filled([item["labels"] for item in items], IGNORED)
    return {**padded(items, pad, typed), "labels": labels}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed over the tokens with a label: logits [rows, tokens, kinds], labels [rows, tokens]."""
    return nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED
    )


def without_labels(batch: Batch) -> dict[str, Tensor]:
    """What the module takes of a batch."""
    return {name: value for name, value in batch.items() if name != "labels"}
