"""An encoder by torch.onnx.export, and ONNX Runtime's own dynamic quantization.

python peer_onnx.py MODEL OUT float32|int8
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel


class Encoder(torch.nn.Module):
    """Token vectors of ids and mask."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.body: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """float32 [1, tokens, dim]."""
        found: torch.Tensor = self.body(input_ids=input_ids, attention_mask=attention_mask)[0]
        return found


def main() -> None:
    """Export with free length; for int8 also preprocess and quantize."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("precision", choices=("float32", "int8"))
    options = parser.parse_args()
    ids = torch.arange(1000, 1064)[None]
    float_file = options.out / ("model.onnx" if options.precision == "float32" else "float.onnx")
    tokens = torch.export.Dim("tokens", min=2, max=512)
    torch.onnx.export(
        Encoder(options.model), (ids, torch.ones_like(ids)), str(float_file),
        input_names=["input_ids", "attention_mask"], output_names=["states"], dynamo=True,
        dynamic_shapes={"input_ids": {1: tokens}, "attention_mask": {1: tokens}},
        external_data=False,
    )  # fmt: skip
    if options.precision == "int8":
        _quantize(float_file, options.out / "model.onnx")


def _quantize(float_file: Path, file: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = float_file.with_name("prepared.onnx")
    quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(str(prepared), str(file), per_channel=True)
    prepared.unlink()
    float_file.unlink()


if __name__ == "__main__":
    main()
