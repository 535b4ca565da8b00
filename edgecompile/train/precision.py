"""Mixed precision: weights stay float32, products run in fewer bits where that was asked for."""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from edgecompile.calibration.walk import find_blocks
from edgecompile.errors import MissingLibraryError, UnsupportedError
from edgecompile.train.options import Precision

FP8_CAPABILITY = (8, 9)  # NVIDIA Ada and Hopper
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "fp8": torch.bfloat16}


def refuse(precision: Precision, device: torch.device) -> None:
    """UnsupportedError (3) where the device has no such arithmetic."""
    if precision != "fp8":
        return
    found = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if found is None or found < FP8_CAPABILITY:
        raise UnsupportedError(
            "train.precision", f"fp8 on {device.type} {found or ''}".strip(),
            f"an NVIDIA GPU of compute capability {FP8_CAPABILITY} or above",
            "train.precision=bfloat16",
        )  # fmt: skip


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Inside, torch runs products in the precision and sums, norms and losses in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=TYPES[precision])



def to_fp8(module: nn.Module, emulate: bool = False) -> None:
    """Linear layers of blocks whose sizes are multiples of 16 compute in float8, by tensor scales.

    The weights stay as they are, under their names. `emulate` computes the same on any device.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ModuleNotFoundError as error:
        way_out = "pip install 'edgecompile[executorch]'"
        raise MissingLibraryError("fp8", "torchao is not installed", way_out=way_out) from error

    blocks = tuple(f"{path}." for path, _ in find_blocks(module))  # the head keeps its bits

    def chosen(layer: nn.Module, name: str) -> bool:
        fits = isinstance(layer, nn.Linear) and all(n % 16 == 0 for n in layer.weight.shape)
        return fits and name.startswith(blocks)

    config = Float8LinearConfig(emulate=emulate)
    convert_to_float8_training(module, config=config, module_filter_fn=chosen)
