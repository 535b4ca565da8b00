"""One label a text (or a pair of texts): cross entropy."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompile.train.data import Example, names_of
from edgecompile.train.objectives import Batch, Item, Numbers
from edgecompile.train.objectives.texts import Texts, padded, without_labels


@dataclass
class Classification(Texts):
    """`labels` are the classes in the order of the module's outputs."""

    labels: tuple[str, ...] = ()
    smoothing: float = 0.0
    measure: str = "accuracy"

    def item(self, row: Example, text: str) -> Item:
        """Token ids and the class's number."""
        return {**self.tokens(text, row.pair), "label": self.labels.index(names_of(row)[0])}

    def weight(self, items: Sequence[Item]) -> float:
        """Rows."""
        return float(len(items))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Ids, mask and types int64 [rows, longest], labels int64 [rows]."""
        labels = torch.tensor([item["label"] for item in items])
        return {**padded(items, self.pad, self.typed), "labels": labels}

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """Cross entropy summed over rows; how many were right."""
        logits, labels = module(**without_labels(batch)).logits.float(), batch["labels"]
        loss = nn.functional.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=self.smoothing
        )
        return loss, {"accuracy": float((logits.argmax(-1) == labels).sum())}

    def evaluate(self, module: nn.Module) -> Numbers:
        """Accuracy, macro F1 and mean cross entropy on the held-out rows."""
        if not self.held_out:
            return {}
        logits, labels = self.answers(module)
        loss = nn.functional.cross_entropy(logits, labels)
        found, right = logits.argmax(-1).numpy(), labels.numpy()
        scores = [_f1(found == one, right == one) for one in sorted({*right.tolist()})]
        return {
            "accuracy": float(np.mean(found == right)), "macro_f1": float(np.mean(scores)),
            "loss": float(loss),
        }  # fmt: skip

    def answers(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits float32 [rows, labels] and labels int64 [rows] of the held-out rows."""
        found = [
            (module(**without_labels(batch)).logits.float().cpu(), batch["labels"].cpu())
            for batch in self.held_out_batches()
        ]
        return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def _f1(found: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    both = float((found & right).sum())
    return 2 * both / max(1.0, float(found.sum() + right.sum()))
