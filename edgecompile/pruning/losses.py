"""Losses whose gradients say what a unit is worth: of labels, of text, of own answers."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgecompile.calibration.batches import Batch, labels_of, text_batches
from edgecompile.model import Model
from edgecompile.reference import Reference, flat_outputs
from edgecompile.text.parts import Document

SEED = 0  # of the answers that are drawn


def losses(
    reference: Reference, documents: Sequence[Document], texts: int, length: int,
    step: Callable[[int, int], None],
) -> Iterator[Tensor]:  # fmt: skip
    """One scalar a batch of calibration text, depending on the reference's weights.

    A decoder's is the cross-entropy of the text; a classifier's that of the labels, if every text
    has one. Without labels an answer is drawn from the model's own distribution, which makes the
    squared gradients the diagonal of its Fisher information; an embedding is projected on random
    signs, which makes them that of J'J (Martens 2020, New Insights on the Natural Gradient).
    """
    model = reference.model
    labelled = model.task == "classification" and all(d.label is not None for d in documents)
    batches = text_batches(model, documents, texts, length)
    truth = labels_of(model, documents, texts, length) if labelled else None
    random = torch.Generator().manual_seed(SEED)
    module = reference.torch_module()
    for number, batch in enumerate(batches):
        step(number, len(batches))
        inputs = {name: value for name, value in batch.inputs.items() if name != "use_cache"}
        if model.task == "text-generation":
            logits = reference.body(**inputs, use_cache=False).logits
            yield _of_text(logits, inputs["input_ids"])
            continue
        accepted = {name: inputs[name] for name in reference.input_names if name in inputs}
        for name in set(reference.input_names) - set(accepted):  # token types
            accepted[name] = torch.zeros_like(inputs["input_ids"])
        given = flat_outputs(module(**accepted))[0]
        if truth is not None:
            yield functional.cross_entropy(given, truth[number])
        else:
            yield _of_own_answers(model, given, batch, random)
    step(len(batches), len(batches))


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
