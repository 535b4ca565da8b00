"""Pairs of texts: a score (cross-encoders), or embeddings that are close where texts belong."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgecompile.errors import BadInputError
from edgecompile.metrics.rank import spearman
from edgecompile.numerics.pooled import pool
from edgecompile.train.data import Example
from edgecompile.train.objectives import Batch, Item, Numbers
from edgecompile.train.objectives.texts import Texts, padded


@dataclass
class Scores(Texts):
    """A number in [0, 1] a pair, through a sigmoid: binary cross entropy."""

    measure: str = "spearman"

    def __post_init__(self) -> None:
        """Refuse rows without a pair or a number, before the first step."""
        for row in (*self.data.training, *self.data.held_out):
            refuse_single(row)
            score_of(row)

    def item(self, row: Example, text: str) -> Item:
        """Token ids of both texts, and the score."""
        return {**self.tokens(text, row.pair), "score": score_of(row)}

    def weight(self, items: Sequence[Item]) -> float:
        """Pairs."""
        return float(len(items))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Ids, mask and types int64 [pairs, longest], scores float32 [pairs]."""
        scores = torch.tensor([item["score"] for item in items], dtype=torch.float32)
        return {**padded(items, self.pad, self.typed), "scores": scores}

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """Binary cross entropy summed over pairs."""
        found = self._logits(module, batch)
        loss = nn.functional.binary_cross_entropy_with_logits(
            found, batch["scores"], reduction="sum"
        )
        return loss, {}

    @staticmethod
    def _logits(module: nn.Module, batch: Batch) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "scores"}
        found: Tensor = module(**inputs).logits.float()[:, 0]
        return found

    def evaluate(self, module: nn.Module) -> Numbers:
        """Rank correlation with the held-out scores, and the mean loss."""
        if not self.held_out:
            return {}
        batches = self.held_out_batches()
        found = [(self._logits(module, one).cpu(), one["scores"].cpu()) for one in batches]
        logits, scores = torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, scores)
        ranked = spearman(scores.double().numpy(), logits.double().numpy())
        return {"spearman": 0.0 if np.isnan(ranked) else ranked, "loss": float(loss)}


@dataclass
class Embeddings(Texts):
    """Each text is nearest to its own second text among all of its part of the batch.

    Cross entropy over cosines / `contrast` (van den Oord et al. 2018; the multiple negatives
    ranking loss). With scores in the data: the cosine's squared distance to the score.
    """

    mode: str = "mean"  # of pooling
    contrast: float = 0.05
    measure: str = "loss"

    def __post_init__(self) -> None:
        """Refuse rows without a pair, before the first step."""
        for row in (*self.data.training, *self.data.held_out):
            refuse_single(row)
        self.scored = all(row.label is not None for row in self.data.training)
        if self.scored:
            self.measure = "spearman"

    def item(self, row: Example, text: str) -> Item:
        """Token ids of either text, and the score where there is one."""
        score = score_of(row) if self.scored else 0.0
        first, second = self.tokens(text), self.tokens(row.pair or "")
        return {"ids": first["ids"], "first": first, "second": second, "score": score}

    def weight(self, items: Sequence[Item]) -> float:
        """Pairs."""
        return float(len(items))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Both sides' ids, masks and types int64 [2 pairs, longest], first texts first."""
        both = [item["first"] for item in items] + [item["second"] for item in items]
        scores = torch.tensor([item["score"] for item in items], dtype=torch.float32)
        return {**padded(both, self.pad, self.typed), "scores": scores}

    def cosines(self, module: nn.Module, batch: Batch) -> Tensor:
        """Cosines float32 [pairs, pairs] of first texts with second ones."""
        inputs = {name: value for name, value in batch.items() if name != "scores"}
        hidden = module(**inputs).last_hidden_state.float()
        vectors = pool(hidden, batch["attention_mask"], self.mode)
        one, two = nn.functional.normalize(vectors, dim=-1).chunk(2)
        return one @ two.T

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """Summed over pairs; how many are nearest to their own."""
        cosines = self.cosines(module, batch)
        if self.scored:
            return ((cosines.diagonal() - batch["scores"]) ** 2).sum(), {}
        own = torch.arange(len(cosines), device=cosines.device)
        loss = nn.functional.cross_entropy(cosines / self.contrast, own, reduction="sum")
        return loss, {"accuracy": float((cosines.argmax(1) == own).sum())}

    def evaluate(self, module: nn.Module) -> Numbers:
        """Held-out loss, with rank correlation, or accuracy among pairs of the same batch."""
        if not self.held_out:
            return {}
        total, right, cosines, scores = 0.0, 0.0, list[float](), list[float]()
        for batch in self.held_out_batches():
            loss, numbers = self.loss(module, batch)
            total, right = total + float(loss), right + numbers.get("accuracy", 0.0)
            cosines += self.cosines(module, batch).diagonal().tolist()
            scores += batch["scores"].tolist()
        count = len(self.held_out)
        if not self.scored:
            return {"loss": total / count, "accuracy": right / count}
        ranked = spearman(np.array(scores), np.array(cosines))
        return {"loss": total / count, "spearman": 0.0 if np.isnan(ranked) else ranked}


def refuse_single(row: Example) -> None:
    """BadInputError for a row that has one text."""
    if row.pair is None:
        raise BadInputError(row.where, "one text", "a pair", "name its key: --set train.pair=KEY")


def score_of(row: Example) -> float:
    """The row's label as a number in [0, 1]; a CSV file has it as text."""
    try:
        score = float(row.label) if isinstance(row.label, str | int | float) else float("nan")
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 1:
        found = f"the label {row.label!r}"
        raise BadInputError(row.where, found, "a number from 0 to 1", "scale the scores")
    return score
