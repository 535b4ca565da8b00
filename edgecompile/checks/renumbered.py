"""A model asked in the ids of a smaller vocabulary, whose tokens it has under other ids."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.reference import Reference


class Renumbered(Reference):
    """Ids that come in are the smaller vocabulary's, and so are the columns of logits over it.

    `old_ids` [new ids] are the model's own. A softmax of the columns is the model's distribution
    over the tokens that stayed.
    """

    def __init__(self, model: Model, old_ids: Sequence[int], lean: bool = False) -> None:
        super().__init__(model, lean=lean)
        self.old_ids = np.array(old_ids, np.int64)

    def logit_chunks(
        self, ids: Sequence[int], rows: int = 128, first: int = 0
    ) -> Iterator[Float32]:
        """Next-token logits float32 [<= rows, new ids]."""
        for chunk in super().logit_chunks(self.old_ids[list(ids)].tolist(), rows, first):
            yield chunk[:, self.old_ids]

    def whole_logits(self, ids: Sequence[int], rows: int = 64) -> Iterator[Float32]:
        """The model's own: logits float32 [<= rows, old ids] of old ids."""
        return super().logit_chunks(ids, rows)

    def rows(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> list[Float32]:
        """As Reference.rows; guessed words are [tokens, new ids]."""
        found = super().rows([self.old_ids[list(row)].tolist() for row in ids], types)
        if self.model.task != "fill-mask":
            return found
        return [row[:, self.old_ids] for row in found]
