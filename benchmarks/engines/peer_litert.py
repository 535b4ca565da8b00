"""Runs in an environment of its own: an encoder by litert-torch, quantized by ai-edge-quantizer.

python peer_litert.py MODEL OUT float32|int8
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import litert_torch
import torch
from transformers import AutoModel

TOKENS = 64


class Pooled(torch.nn.Module):
    """Vectors [1, dim] of length 1 of ids and mask int64 [1, TOKENS]."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.body: Any = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Mean of the token vectors that the mask keeps; a ready 4-D float mask."""
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        states = self.body(input_ids=input_ids, attention_mask=bias)[0]
        kept = attention_mask[:, :, None].float()
        mean = (states * kept).sum(1) / kept.sum(1)
        return torch.nn.functional.normalize(mean, dim=1)


def main() -> None:
    """Convert at TOKENS tokens; int8 by the recipe for dynamic ranges, weights by channel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("precision", choices=("float32", "int8"))
    options = parser.parse_args()
    ids = torch.arange(1000, 1000 + TOKENS)[None]
    converted = litert_torch.convert(Pooled(options.model).eval(), (ids, torch.ones_like(ids)))
    file = options.out / "model.tflite"
    converted.export(str(file))
    if options.precision == "int8":
        from ai_edge_quantizer import quantizer, recipe

        quantized = quantizer.Quantizer(str(file), recipe.dynamic_wi8_afp32()).quantize()
        quantized.export_model(str(file), overwrite=True)


if __name__ == "__main__":
    main()
