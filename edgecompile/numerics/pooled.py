"""An encoder with its pooling inside: what sentence-transformers does after the transformer."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecompile.model import Pooling

MODES = ("mean", "cls", "max", "mean_sqrt_len", "lasttoken")


def pool(hidden: Tensor, mask: Tensor, mode: str) -> Tensor:
    """One vector a text from token vectors [batch, length, dim] and a mask [batch, length] of 0, 1.

    The formulas are those of sentence_transformers.models.Pooling; `lasttoken` is the last 1.
    """
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return hidden.masked_fill(weights == 0, -1e9).amax(1)
    if mode == "lasttoken":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).argmax(1)
        return hidden.gather(1, last.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)
    count = weights.sum(1).clamp(min=1e-9)
    return (hidden * weights).sum(1) / (count.sqrt() if mode == "mean_sqrt_len" else count)


class PooledEncoder(nn.Module):
    """forward(input_ids, attention_mask, token_type_ids?) int64 [batch, length] -> [batch, dim]."""

    def __init__(self, body: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        if pooling.mode not in MODES:
            raise ValueError(f"pooling mode {pooling.mode!r} is not one of {', '.join(MODES)}")
        self.body, self.mode, self.normalize = body, pooling.mode, pooling.normalize

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Sentence embeddings, of length 1 where the model normalizes."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        out = self.body(input_ids=input_ids, attention_mask=attention_mask, **extra)
        vector = pool(out.last_hidden_state, attention_mask, self.mode)
        return nn.functional.normalize(vector, dim=-1) if self.normalize else vector


class PictureLogits(nn.Module):
    """forward(pixel_values) float32 [batch, 3, height, width] -> class logits [batch, labels]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The model's logits alone, whether it gives a tensor or an output object."""
        found = self.body(pixel_values)
        logits: Tensor = found if isinstance(found, Tensor) else found.logits
        return logits


class Logits(nn.Module):
    """forward(input_ids, attention_mask, token_type_ids?) int64 [batch, length] -> logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The model's logits alone: [batch, labels], or [batch, length, vocabulary]."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: Tensor = self.body(
            input_ids=input_ids, attention_mask=attention_mask, **extra
        ).logits
        return logits
