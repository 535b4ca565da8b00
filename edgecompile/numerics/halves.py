"""An encoder-decoder as two graphs over one store of weights, one text at a time.

T5 (Raffel et al. 2020), around transformers' own modules. The encoder's graph ends with what the
decoder attends to: the keys and values of its cross-attentions, computed once a text.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = -1e9  # added to the score of a position that a token may not see


class Distances(nn.Module):
    """T5's bias of attention by the distance of key and query, from a table of its buckets.

    The table is transformers' own rule asked once: an engine's logarithm, rounded otherwise, would
    put the distances between two buckets into the wrong one.
    """

    buckets: Tensor  # int64 [2 reach + 1]: of the distances -reach to reach

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.reach = int(attention.relative_attention_max_distance)
        self.bias: nn.Embedding = attention.relative_attention_bias
        found = attention._relative_position_bucket(
            torch.arange(-self.reach, self.reach + 1), not attention.is_decoder,
            attention.relative_attention_num_buckets, self.reach,
        )  # fmt: skip
        self.register_buffer("buckets", found, persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Bias float32 [heads, queries, keys] of distances key - query int64 [queries, keys]."""
        kept = distances.clamp(-self.reach, self.reach) + self.reach
        rows: Tensor = self.bias(self.buckets[kept])
        return rows.permute(2, 0, 1)


class Encoder(nn.Module):
    """forward(input_ids [1, source]) int64 -> cross float32 [2 layers, heads, source, size].

    Each layer of the decoder has its keys there, then its values.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.stack, self.decoder = body.encoder, body.decoder
        self.distances = Distances(self.stack.block[0].layer[0].SelfAttention)

    def forward(self, input_ids: Tensor) -> Tensor:
        """What the decoder attends to."""
        places = torch.arange(input_ids.shape[1])
        bias = self.distances(places[None] - places[:, None])
        stream = self.stack.embed_tokens(input_ids)
        for block in self.stack.block:
            own, rest = block.layer[0], block.layer[-1]
            normed, by = own.layer_norm(stream), own.SelfAttention
            query, keys, values = (_heads(by, one(normed)) for one in (by.q, by.k, by.v))
            stream = rest(stream + _attended(by, query, keys, values, bias))
        stream = self.stack.final_layer_norm(stream)
        crossing = [block.layer[1].EncDecAttention for block in self.decoder.block]
        return torch.stack(
            [_heads(by, linear(stream)) for by in crossing for linear in (by.k, by.v)]
        )


class Decoder(nn.Module):
    """forward(decoder_input_ids [1, n], past, cross) -> (logits [1, n, vocabulary], present).

    past float32 [1 + before, 2 layers, heads, size] are keys and values of the tokens before, after
    a row that nothing sees, so that it is never empty; present [n, ...] are those of the new ones.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.stack, self.head = body.decoder, body.lm_head
        self.scale = body.model_dim**-0.5 if body.config.scale_decoder_outputs else 1.0
        own = self.stack.block[0].layer[0].SelfAttention
        self.distances = Distances(own)
        self.row = (2 * len(self.stack.block), own.n_heads, own.key_value_proj_dim)

    def forward(
        self, decoder_input_ids: Tensor, past: Tensor, cross: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits after each new token, and what the next call needs of them."""
        bias = self._bias(decoder_input_ids.shape[1], past.shape[0])
        stream, present = self.stack.embed_tokens(decoder_input_ids), []
        for layer, block in enumerate(self.stack.block):
            own, other, rest = block.layer
            here = slice(2 * layer, 2 * layer + 2)
            added, new = _own(own, stream, past[:, here], bias)
            present.append(new)
            stream = stream + added
            by, (keys, values) = other.EncDecAttention, cross[here]
            query = _heads(by, by.q(other.layer_norm(stream)))
            stream = rest(stream + _attended(by, query, keys, values))
        stream = self.stack.final_layer_norm(stream) * self.scale
        return self.head(stream), torch.cat(present, 1)

    def _bias(self, new: int, before: int) -> Tensor:
        """float32 [heads, new, before + new]; row 0 of the past is seen by nobody."""
        keys, queries = torch.arange(before + new)[None], torch.arange(new)[:, None] + before
        hidden = (keys > queries) | (keys == 0)
        seen: Tensor = self.distances(keys - queries)
        return seen + hidden * HIDDEN


def _own(layer: Any, stream: Tensor, past: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Self-attention [1, n, width] over past [before, 2, heads, size], and what is new of that."""
    by, normed = layer.SelfAttention, layer.layer_norm(stream)
    shape = (1, normed.shape[1], by.n_heads, by.key_value_proj_dim)
    new = torch.stack([linear(normed).view(shape)[0] for linear in (by.k, by.v)], 1)
    keys, values = torch.cat([past, new]).permute(1, 2, 0, 3)
    return _attended(by, _heads(by, by.q(normed)), keys, values, bias), new


def _heads(by: Any, values: Tensor) -> Tensor:
    """[1, n, heads x size] as [heads, n, size]."""
    shape = (values.shape[1], by.n_heads, by.key_value_proj_dim)
    heads: Tensor = values[0].view(shape).transpose(0, 1)
    return heads


def _attended(
    by: Any, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Attention of heads [heads, n, size] without a scale, as T5 has it: [1, n, width]."""
    scores = torch.matmul(query, keys.transpose(1, 2))
    if bias is not None:
        scores = scores + bias
    found = torch.matmul(torch.softmax(scores, -1), values)
    merged = found.transpose(0, 1).reshape(1, -1, by.n_heads * by.key_value_proj_dim)
    answer: Tensor = by.o(merged)
    return answer
