"""A student learns from a teacher: soft targets, hidden states, relations; and from the task."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecompile.train import order
from edgecompile.train.objectives import Batch, Draw, Item, Numbers
from edgecompile.train.objectives.texts import padded
from edgecompile.train.teacher import Teacher
from edgecompile.train.watched import relation

EVALUATED = 16  # rows at once
ASKED = "asked"  # of an item: ids and types in the teacher's own tokens
Kind = Literal["vectors", "classes", "tokens"]  # what an answer is: of a text, or of each token


@dataclass(frozen=True)
class Weights:
    """What each loss counts for; 0 leaves it out."""

    soft: float = 1.0  # the teacher's distribution, or the direction of its vectors
    task: float = 0.0  # labels, or the text itself
    hidden: float = 0.0  # mean squared error of mapped layers' outputs
    relations: float = 0.0  # of queries, keys and values among tokens, in mapped layers


@dataclass
class Distillation:
    """`layers` (and `related`, for relations) map the student's to the teacher's.

    `held` are rows that training does not see.
    """

    texts: Sequence[Item]  # ids, types, and a label where all have one
    held: Sequence[Item]
    teacher: Teacher
    kind: Kind
    weights: Weights
    temperature: float
    layers: Mapping[int, int]
    related: Mapping[int, int]
    heads: int = 1  # of relations
    pad: int = 0
    typed: bool = False
    asked_pad: int = 0  # of texts in the teacher's own tokens
    seed: int = 0
    measure: str = "loss"
    partial: bool = False

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.texts)

    def start(self, device: torch.device) -> None:
        """The teacher goes where the student is."""
        self.teacher.to(device)

    def draws(self, step: int, count: int) -> Sequence[Draw]:
        """The step's rows: every epoch in another order."""
        return order.draws(self.rows, self.seed, step * count, count)

    def items(self, draws: Sequence[Draw]) -> Sequence[Item]:
        """The drawn rows, each with its number: what the teacher said of it may be on disk."""
        return [{**self.texts[draw.row], "row": draw.row} for draw in draws]

    def weight(self, items: Sequence[Item]) -> float:
        """Rows, or of a decoder tokens that follow another."""
        if self.kind != "tokens":
            return float(len(items))
        return float(sum(len(item["ids"]) - 1 for item in items))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Ids, mask and types int64 [rows, longest]; row numbers, and labels int64 [rows]."""
        batch: dict[str, Tensor] = padded(items, self.pad, self.typed)
        batch["rows"] = torch.tensor([item.get("row", -1) for item in items])
        if all("label" in item for item in items):
            batch["labels"] = torch.tensor([item["label"] for item in items])
        if all(ASKED in item for item in items):
            asked = padded([item[ASKED] for item in items], self.asked_pad, self.typed)
            batch |= {f"{ASKED}.{name}": value for name, value in asked.items()}
        return batch

    def _taught(self, batch: Batch) -> dict[str, Tensor]:
        return self.teacher.seen(asked_of(batch), batch["rows"])

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, Numbers]:
        """The weighted sum of all losses, each summed over rows or tokens."""
        found, expected = module(**inputs_of(batch)), self._taught(batch)
        parts: dict[str, Tensor] = {}
        if self.weights.soft:
            parts["soft"] = self._soft(found["answers"], expected["answers"], batch)
        if self.weights.task:
            parts["task"] = self._task(found["answers"], batch)
        if self.weights.hidden:
            parts["hidden"] = self._hidden(found, expected, batch)
        if self.weights.relations:
            parts["relations"] = self._relations(found, expected, batch)
        total = sum((getattr(self.weights, n) * p for n, p in parts.items()), torch.zeros(()))
        return total, {name: float(part.detach()) for name, part in parts.items()}

    def _soft(self, found: Tensor, expected: Tensor, batch: Batch) -> Tensor:
        """T^2 KL(teacher || student) at temperature T (Hinton et al. 2015); of vectors 1 - cosine.

        Vectors of different lengths are compared by their similarities within the batch.
        """
        if self.kind == "vectors":
            return _direction(found, expected)
        if self.kind == "tokens":
            found, expected = _following(found, batch), _following(expected, batch)
        scale = self.temperature
        target = (expected.float() / scale).log_softmax(-1)
        own = (found.float() / scale).log_softmax(-1)
        loss = functional.kl_div(own, target, reduction="sum", log_target=True)
        return loss * scale**2

    def _task(self, found: Tensor, batch: Batch) -> Tensor:
        if self.kind == "tokens":
            ids, mask = batch["input_ids"], batch["attention_mask"]
            truth, own = ids[:, 1:][mask[:, 1:] == 1], _following(found, batch).float()
            return functional.cross_entropy(own, truth, reduction="sum")
        return functional.cross_entropy(found.float(), batch["labels"], reduction="sum")

    def _hidden(
        self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """Mean squared error of a token's states, over the teacher's own mean square."""
        mask = batch["attention_mask"] == 1
        losses = []
        for student, teacher in self.layers.items():
            own, its = found[f"hidden.{student}"], expected[f"hidden.{teacher}"]
            own, its = own[mask].float(), its[mask].float()
            gap = (own - its).square().mean(-1)
            losses.append(gap.sum() / its.square().mean().clamp(min=1e-6))
        return torch.stack(losses).mean() * self._per_weight(mask)

    def _relations(
        self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """KL divergence of each token's relations (MiniLMv2, eq. 5), summed over tokens."""
        mask, losses = batch["attention_mask"], []
        for student, teacher in self.related.items():
            for what in "qkv":
                own, its = (
                    relation(side[f"{what}.{layer}"].float(), self.heads, mask,
                             self.kind == "tokens")
                    for side, layer in ((found, student), (expected, teacher))
                )  # fmt: skip
                gap = torch.where(its.isinf(), 0.0, its.exp() * (its - own))
                losses.append(gap.sum(-1).mean(1)[mask == 1].sum())
        return torch.stack(losses).mean() * self._per_weight(mask == 1)

    def _per_weight(self, mask: Tensor) -> float:
        """Makes a sum over tokens one over rows, where those are what is counted."""
        return 1.0 if self.kind == "tokens" else float(mask.shape[0] / mask.sum())

    def evaluate(self, module: nn.Module) -> Numbers:
        """The soft loss on the held-out rows, and how often the likeliest answer is the same."""
        if not self.held:
            return {}
        device = next(module.parameters()).device
        sums = {"loss": 0.0, "agreement": 0.0}
        for start in range(0, len(self.held), EVALUATED):
            given = self.collate(self.held[start : start + EVALUATED])
            batch = {name: value.to(device) for name, value in given.items()}
            found, expected = module(**inputs_of(batch)), self._taught(batch)
            own, its = found["answers"], expected["answers"]
            sums["loss"] += float(self._soft(own, its, batch))
            sums["agreement"] += self._agreement(own, its, batch)
        count = self.weight(self.held)
        return {name: value / count for name, value in sums.items()}

    def _agreement(self, own: Tensor, its: Tensor, batch: Batch) -> float:
        if self.kind == "vectors":
            return float(len(own) - _direction(own, its))
        if self.kind == "tokens":
            own, its = _following(own, batch), _following(its, batch)
        return float((own.argmax(-1) == its.argmax(-1)).sum())

    def better(self, new: Numbers, old: Numbers) -> bool:
        """A lower loss."""
        return new.get("loss", math.inf) < old.get("loss", math.inf)


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """What the module takes of a batch."""
    other = ("rows", "labels")
    return {n: value for n, value in batch.items() if n not in other and not n.startswith(ASKED)}


def asked_of(batch: Batch) -> dict[str, Tensor]:
    """What the teacher is asked: the same texts, in tokens of its own where it has others."""
    own = {n: value for n, value in batch.items() if n.startswith(ASKED)}
    return {n.removeprefix(f"{ASKED}."): v for n, v in own.items()} or inputs_of(batch)


def _following(logits: Tensor, batch: Batch) -> Tensor:
    """Rows [tokens, vocabulary] that guess a token that is there."""
    return logits[:, :-1][batch["attention_mask"][:, 1:] == 1]


def _direction(found: Tensor, expected: Tensor) -> Tensor:
    if found.shape == expected.shape:
        return (1 - functional.cosine_similarity(found.float(), expected.float(), dim=-1)).sum()
    own, its = (functional.normalize(side.float(), dim=-1) for side in (found, expected))
    return (own @ own.T - its @ its.T).square().mean(-1).sum()
