"""CLIP's two towers as graphs of their own: texts and pictures to vectors of one space.

CLIP (Radford et al. 2021), around transformers' own modules. A vector has length 1, as those have
that CLIPModel.forward compares.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = -1e9  # added to the score of a position that a token may not see
HIGHEST = 2  # an eos_token_id that old configs state wrongly: their texts end with the highest id


class TextTower(nn.Module):
    """forward(input_ids [batch, length]) int64 -> text_embeds float32 [batch, dim].

    Tokens see those before them and a text's vector is its end token's, so what is padded after
    that is seen by nobody: there is no mask.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.text, self.projection = body.text_model, body.text_projection
        self.end = int(body.text_model.eos_token_id)

    def forward(self, input_ids: Tensor) -> Tensor:
        """A vector of length 1 a text."""
        places = torch.arange(input_ids.shape[1])
        later = (places[None, :] > places[:, None]) * HIDDEN
        stream = self.text.encoder(
            inputs_embeds=self.text.embeddings(input_ids=input_ids),
            attention_mask=later[None, None],
        ).last_hidden_state
        last = self._end(input_ids, places).view(-1, 1, 1).expand(-1, 1, stream.shape[2])
        # Each token is normalized by itself: only the last one's norm is wanted.
        return normalized(self.projection(self.text.final_layer_norm(stream.gather(1, last)[:, 0])))

    def _end(self, ids: Tensor, places: Tensor) -> Tensor:
        """int64 [batch]: where the first end token is; 0 where there is none, as transformers."""
        ends = ids == (ids.amax(1, keepdim=True) if self.end == HIGHEST else self.end)
        # Not argmax: engines differ in which of several equals they take.
        first = torch.where(ends, places, ids.shape[1]).amin(1)
        return first * (first < ids.shape[1])


class TextFeatures(nn.Module):
    """forward(input_ids, attention_mask) int64 [batch, length] -> float32 [batch, dim].

    transformers' get_text_features, with length 1.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """A vector of length 1 a text."""
        found = self.body.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return normalized(found.pooler_output)


class PictureTower(nn.Module):
    """forward(pixel_values [batch, 3, height, width]) -> image_embeds float32 [batch, dim].

    The table of positions is added as it is stored: a look-up of all of its rows is folded by
    exporters, and could not be read back.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.vision, self.projection = body.vision_model, body.visual_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """A vector of length 1 a picture."""
        entry = self.vision.embeddings
        patches = entry.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = entry.class_embedding.expand(pixel_values.shape[0], 1, -1)
        stream = torch.cat([first, patches], 1) + entry.position_embedding.weight
        stream = self.vision.encoder(
            inputs_embeds=self.vision.pre_layrnorm(stream)
        ).last_hidden_state
        return normalized(self.projection(self.vision.post_layernorm(stream[:, 0])))


class PictureFeatures(nn.Module):
    """forward(pixel_values [batch, 3, height, width]) -> float32 [batch, dim].

    transformers' get_image_features, with length 1.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixel_values: Tensor) -> Tensor:
        """A vector of length 1 a picture."""
        return normalized(self.body.get_image_features(pixel_values=pixel_values).pooler_output)


def normalized(vectors: Tensor) -> Tensor:
    """Each row over its length, as CLIPModel.forward computes it."""
    return vectors / vectors.pow(2).sum(-1, keepdim=True).sqrt()
