"""Products that transformers computes with weights [in, out], as layers with [out, in]."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def as_linear(module: nn.Module, is_turned: Callable[[str], bool]) -> None:
    """Put an nn.Linear in the place of each layer whose weight's name says that it is [in, out].

    GPT-2's Conv1D is x W + b, an nn.Linear with its weight transposed.
    """
    for path, child in list(module.named_modules()):
        if not is_turned(f"{path}.weight"):
            continue
        weight, bias = child.get_parameter("weight"), child.get_parameter("bias")
        with torch.device("meta"):
            linear = nn.Linear(*weight.shape)
        linear.weight, linear.bias = nn.Parameter(weight.detach().t().contiguous()), bias
        module.set_submodule(path, linear)
