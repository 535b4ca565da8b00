"""Losses whose gradients say what a unit is worth: of labels, of text, of own answers."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgecompile.calibration.batches import Batch, labels_of, text_batches
from edgecompile.model import Model
from edgecompile.reference import Reference, flat_outputs
from edgecompile.text.parts import Document


class Losses:
    """One scalar a batch of calibration text, depending on the reference's weights.

    A decoder's is the cross-entropy of the text; a classifier's that of the labels, if every text
    has one. Without labels an answer is drawn from the model's own distribution, which makes the
    squared gradients the diagonal of its Fisher information; an embedding is projected on random
    signs, which makes them that of J'J (Martens 2020, New Insights on the Natural Gradient).
    """

    def __init__(
        self, reference: Reference, documents: Sequence[Document], texts: int, length: int
    ) -> None:
        model = self.model = reference.model
        self.reference, self.module = reference, reference.torch_module()
        labelled = model.task == "classification" and all(d.label is not None for d in documents)
        self.batches = text_batches(model, documents, texts, length)
        self.truth = labels_of(model, documents, texts, length) if labelled else None

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, number: int) -> Tensor:
        """The loss of one batch, whatever came before it."""
        batch = self.batches[number]
        ids = batch.inputs["input_ids"]
        if self.model.task == "text-generation":
            return _of_text(self.reference.body(input_ids=ids, use_cache=False).logits, ids)
        names = self.reference.input_names  # token types are all of the first text
        inputs = {name: batch.inputs.get(name, torch.zeros_like(ids)) for name in names}
        given = flat_outputs(self.module(**inputs))[0]
        if self.truth is not None:
            return functional.cross_entropy(given, self.truth[number])
        random = torch.Generator().manual_seed(number)
        return _of_own_answers(self.model, given, batch, random)


def _of_text(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each token after the ones before it."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def _of_own_answers(model: Model, given: Tensor, batch: Batch, random: torch.Generator) -> Tensor:
    rows = given
    if given.ndim == 3 and batch.mask is not None:
        rows = given[batch.mask]
    if model.task == "embedding" or rows.shape[-1] == 1:
        signs = torch.randint(0, 2, rows.shape, generator=random) * 2.0 - 1.0
        return (rows * signs).sum() / rows.shape[0]
    drawn = torch.multinomial(rows.detach().softmax(-1), 1, generator=random)[:, 0]
    return functional.cross_entropy(rows, drawn)
