"""MobileNetV3-Small as a user's own torch module: Howard et al. 2019, table 2, at a quarter width.

transformers has no class of it. Weights are seeded; `build` is the entry point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SIZE, CLASSES = 32, 5
WIDTH = 0.25
# Kernel, expansion, channels, squeeze-and-excitation, hard-swish (else ReLU), stride.
BLOCKS = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip
STEM, LAST, HEAD = 16, 576, 1024


def scaled(channels: int) -> int:
    """At WIDTH, a multiple of 8."""
    return max(8, round(channels * WIDTH / 8) * 8)


def convolution(given: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """With its batch norm, and the padding that keeps the size at stride 1."""
    layer = nn.Conv2d(given, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out, eps=1e-3, momentum=1.0))


class Excitation(nn.Module):
    """Channels times a gate that their means give (Hu et al. 2018), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, channels // 4)
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.expand(gate))


class Block(nn.Module):
    """Expansion, depthwise convolution, gate, projection; added to its input where shapes allow."""

    def __init__(self, given: int, row: tuple[int, int, int, bool, bool, int]) -> None:
        super().__init__()
        kernel, expansion, channels, excited, swish, stride = row
        inner, out = scaled(expansion), scaled(channels)
        self.expand = convolution(given, inner, 1)
        self.depthwise = convolution(inner, inner, kernel, stride, inner)
        self.gate = Excitation(inner) if excited else nn.Identity()
        self.project = convolution(inner, out, 1)
        self.activation = nn.Hardswish() if swish else nn.ReLU()
        self.adds = stride == 1 and given == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.depthwise(self.activation(self.expand(x))))
        y = self.project(self.gate(y))
        return x + y if self.adds else y


class MobileNetV3(nn.Module):
    """forward(pixel_values) float32 [n, 3, 32, 32] -> class scores [n, 5]."""

    def __init__(self) -> None:
        super().__init__()
        given, blocks = scaled(STEM), []
        for row in BLOCKS:
            blocks.append(Block(given, row))
            given = scaled(row[2])
        self.stem, self.blocks = convolution(3, scaled(STEM), 3, 2), nn.Sequential(*blocks)
        self.last = convolution(given, scaled(LAST), 1)
        self.head = nn.Linear(scaled(LAST), scaled(HEAD))
        self.classes = nn.Linear(scaled(HEAD), CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        swish = nn.functional.hardswish
        x = swish(self.last(self.blocks(swish(self.stem(pixel_values)))))
        scores: Tensor = self.classes(swish(self.head(x.mean((2, 3)))))
        return scores


def build() -> tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]]:
    """Module, example and card; batch norms know the spread of noise."""
    torch.manual_seed(0)
    module = MobileNetV3().train()
    with torch.no_grad():
        module(torch.randn(16, 3, SIZE, SIZE))
    pictures = {
        "height": SIZE, "width": SIZE, "resize": "exact", "resize_height": SIZE,
        "resize_width": SIZE, "resample": "bilinear", "crop": "none",
        "rescale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "RGB",
        "layout": "NCHW",
    }  # fmt: skip
    card = {
        "task": "image-classification", "labels": list(map(str, range(CLASSES))),
        "pictures": pictures, "licence": "apache-2.0",
    }  # fmt: skip
    return module.eval(), (torch.zeros(1, 3, SIZE, SIZE).numpy(),), card
