"""Write tests/numerics/data/gptq_llmcompressor.npz: a small layer rounded by llmcompressor's GPTQ.

    pip install llmcompressor && python benchmarks/quantization/reference_gptq.py OUT.npz

Our own GPTQ has to give these codes on the same scales, column order and damping.
"""
from __future__ import annotations

import sys

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

ROWS, COLUMNS, TOKENS, DAMPING = 48, 96, 400, 0.01


def main() -> None:
    """One layer, in the source's order and by falling diagonal."""
    chance = torch.Generator().manual_seed(3)
    weight = torch.randn(ROWS, COLUMNS, generator=chance) * 0.1
    mixing = torch.randn(COLUMNS, COLUMNS, generator=chance)
    inputs = torch.randn(TOKENS, COLUMNS, generator=chance) @ mixing
    hessian = inputs.T @ inputs / TOKENS
    scales = weight.view(ROWS, -1, 32).abs().amax(2) / 7
    found = {}
    for order in (None, "weight"):
        arguments = QuantizationArgs(
            num_bits=4, symmetric=True, strategy="group", group_size=32, actorder=order
        )
        values, *_ = quantize_weight(
            weight[None].clone(), hessian[None].clone(), scales[None],
            torch.zeros_like(scales)[None].to(torch.int8), None, arguments, percdamp=DAMPING,
        )  # fmt: skip
        codes = (values[0].view(ROWS, -1, 32) / scales[:, :, None]).round().view(ROWS, COLUMNS)
        found["codes_by_diagonal" if order else "codes_in_order"] = codes.to(torch.int8).numpy()
    np.savez_compressed(
        sys.argv[1], weight=weight.numpy(), hessian=hessian.numpy(), scales=scales.numpy(),
        damping=np.float32(DAMPING), **found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
