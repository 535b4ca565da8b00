"""Losses whose gradients say what a unit is worth: of labels, of text, of own answers."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from edgecompile.calibration.batches import labels_of, text_batches
from edgecompile.calibration.sensitivity import SEED, probe
from edgecompile.reference import Reference
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
        self.reference, self.body = reference, reference.body
        labelled = model.task == "classification" and all(d.label is not None for d in documents)
        self.batches = text_batches(model, documents, texts, length)
        self.truth = labels_of(model, documents, texts, length) if labelled else None

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, number: int) -> Tensor:
        """The loss of one batch, whatever came before it."""
        batch = self.batches[number]
        if self.model.task == "text-generation":
            return _of_text(self.body(**batch.inputs).logits, batch.inputs["input_ids"])
        if self.truth is not None:
            return functional.cross_entropy(self.body(**batch.inputs).logits, self.truth[number])
        module = self.reference.torch_module() if self.model.pooling else self.body
        value, samples = probe(module, batch, self.model.task, SEED + number)
        return value / samples


def _of_text(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each token after the ones before it."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
