"""A head that equals the embedding is the embedding: one tensor for every pass and every file."""
from __future__ import annotations

import dataclasses

from edgecompile.model import Model, Weights

HEAD, EMBEDDING = "lm_head.weight", ("embed_tokens.weight", "wte.weight")  # names end so
COMPARED = 1 << 24  # elements at a time
NOTE = f"{HEAD} equals the embedding, though the config does not tie the two: they are one tensor"


def of(model: Model) -> Model:
    """The model tied, with a note, where its checkpoint stores the embedding's values twice.

    Two copies would be quantized apart, each for its own inputs, and ship as two tensors.
    """
    infos = model.weights.infos
    embedding = next((name for name in infos if name.endswith(EMBEDDING)), "")
    if HEAD not in infos or not embedding or not _equal(model, embedding):
        return model
    kept = {name: info for name, info in infos.items() if name != HEAD}
    source = dataclasses.replace(model.source, notes=(*model.source.notes, NOTE))
    config = {**model.config, "tie_word_embeddings": True}
    return dataclasses.replace(model, weights=Weights(kept), config=config, source=source)


def _equal(model: Model, embedding: str) -> bool:
    """Read up to the first part that differs; nothing where shape or dtype do."""
    import torch

    infos = model.weights.infos
    head, table = infos[HEAD], infos[embedding]
    if (head.shape, head.dtype) != (table.shape, table.dtype):
        return False
    pair = Weights({HEAD: head, embedding: table})  # unmapped after
    parts = zip(
        torch.split(pair[HEAD].view(-1), COMPARED), torch.split(pair[embedding].view(-1), COMPARED),
        strict=True,
    )  # fmt: skip
    return all(bool(torch.equal(*part)) for part in parts)
