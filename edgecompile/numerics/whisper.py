"""Whisper as two graphs over one store of weights, one window of sound at a time.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", around
transformers' own modules. As in `halves`, the encoder's graph ends with the keys and values of the
decoder's cross-attentions, computed once a window.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecompile.numerics.halves import HIDDEN


class Encoder(nn.Module):
    """forward(input_features [1, mels, frames]) -> cross float32 [2 layers, heads, source, size].

    `source` is half of `frames`. Each layer of the decoder has its keys there, then its values.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.stack, self.decoder = body.model.encoder, body.model.decoder

    def forward(self, input_features: Tensor) -> Tensor:
        """What the decoder attends to."""
        stream = functional.gelu(self.stack.conv1(input_features))
        stream = functional.gelu(self.stack.conv2(stream)).permute(0, 2, 1)
        stream = stream + self.stack.embed_positions.weight
        for layer in self.stack.layers:
            normed, by = layer.self_attn_layer_norm(stream), layer.self_attn
            keys, values = (_heads(by, one(normed)) for one in (by.k_proj, by.v_proj))
            stream = stream + _attended(by, _query(by, normed), keys, values)
            stream = stream + _forward(layer, stream)
        stream = self.stack.layer_norm(stream)
        crossing = [layer.encoder_attn for layer in self.decoder.layers]
        return torch.stack(
            [_heads(by, linear(stream)) for by in crossing for linear in (by.k_proj, by.v_proj)]
        )


class Decoder(nn.Module):
    """forward(decoder_input_ids [1, n], past, cross) -> (logits [1, n, vocabulary], present).

    past float32 [1 + before, 2 layers, heads, size] are keys and values of the tokens before, after
    a row that nothing sees, so that it is never empty; present [n, ...] are those of the new ones.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.stack, self.head = body.model.decoder, body.proj_out
        first = self.stack.layers[0].self_attn
        self.row = (2 * len(self.stack.layers), first.num_heads, first.head_dim)

    def forward(
        self, decoder_input_ids: Tensor, past: Tensor, cross: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits after each new token, and what the next call needs of them."""
        new, before = decoder_input_ids.shape[1], past.shape[0]
        keys, queries = torch.arange(before + new)[None], torch.arange(new)[:, None] + before
        mask = ((keys > queries) | (keys == 0)) * HIDDEN
        places = torch.arange(new) + (before - 1)
        stream = self.stack.embed_tokens(decoder_input_ids)
        stream = stream + functional.embedding(places, self.stack.embed_positions.weight)
        present = []
        for index, layer in enumerate(self.stack.layers):
            here = slice(2 * index, 2 * index + 2)
            added, made = _own(layer, stream, past[:, here], mask)
            present.append(made)
            stream = stream + added
            by, (seen, values) = layer.encoder_attn, cross[here]
            query = _query(by, layer.encoder_attn_layer_norm(stream))
            stream = stream + _attended(by, query, seen, values)
            stream = stream + _forward(layer, stream)
        return self.head(self.stack.layer_norm(stream)), torch.cat(present, 1)


def _own(layer: Any, stream: Tensor, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Self-attention [1, n, width] over past [before, 2, heads, size], and what is new of that."""
    by, normed = layer.self_attn, layer.self_attn_layer_norm(stream)
    shape = (normed.shape[1], by.num_heads, by.head_dim)
    new = torch.stack([linear(normed).view(shape) for linear in (by.k_proj, by.v_proj)], 1)
    keys, values = torch.cat([past, new]).permute(1, 2, 0, 3)
    return _attended(by, _query(by, normed), keys, values, mask), new


def _forward(layer: Any, stream: Tensor) -> Tensor:
    """What a layer's two products with GELU between them add."""
    added: Tensor = layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(stream))))
    return added


def _query(by: Any, normed: Tensor) -> Tensor:
    """Scaled before the scores, as transformers has it."""
    return _heads(by, by.q_proj(normed) * by.scaling)


def _heads(by: Any, values: Tensor) -> Tensor:
    """[1, n, heads x size] as [heads, n, size]."""
    heads: Tensor = values[0].view(values.shape[1], by.num_heads, by.head_dim).transpose(0, 1)
    return heads


def _attended(
    by: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention of heads [heads, n, size]: [1, n, width]."""
    scores = torch.matmul(query, keys.transpose(1, 2))
    if mask is not None:
        scores = scores + mask
    found = torch.matmul(torch.softmax(scores, -1), values)
    merged = found.transpose(0, 1).reshape(1, -1, by.num_heads * by.head_dim)
    answer: Tensor = by.out_proj(merged)
    return answer
