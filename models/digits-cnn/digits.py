"""A small network of convolutions for scikit-learn's digits: train it, then give it to a build.

Training writes `model.safetensors`, and the digits that it has not seen as labelled pictures.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from edgecompile.errors import BadInputError, EdgecompileError, MissingLibraryError

FOLDER = "DIGITS_CNN"  # the environment variable
DEFAULT = "build/digits-cnn"
WEIGHTS, PICTURES = "model.safetensors", "pictures"
CLASSES, SIZE, LARGEST = 10, 8, 16  # values are 0 to 16
HELD_OUT = 0.65  # its check proves 99 % of the accuracy on 377 pictures, a third of these
EPOCHS, BATCH, RATE = 20, 64, 2e-3
UINT8 = NDArray[np.uint8]


class DigitsCnn(nn.Module):
    """forward(pixel_values) float32 [n, 3, 8, 8] -> class scores [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.dense, self.scores = nn.Linear(64 * 16, 128), nn.Linear(128, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Class scores."""
        x = functional.relu(self.norm1(self.conv1(pixel_values)))
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2)
        x = functional.dropout(functional.relu(self.dense(x.flatten(1))), 0.3, self.training)
        scores: Tensor = self.scores(x)
        return scores


def folder() -> Path:
    """Where training writes and a build reads."""
    return Path(os.environ.get(FOLDER, DEFAULT))


def build() -> tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]]:
    """The trained module, an example, and how pictures are prepared."""
    module, weights = DigitsCnn().eval(), folder() / WEIGHTS
    train = f"python {__file__} --out {folder()}"
    if not weights.is_file():
        raise BadInputError(
            "digits-cnn", f"no {weights}", "trained weights", f"{train} (or set {FOLDER})"
        )
    try:
        module.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        found = " ".join(str(error).split())[:200]
        raise BadInputError(str(weights), found, "this network's weights", train) from error
    pictures = {
        "height": SIZE, "width": SIZE, "resize": "exact", "resize_height": SIZE,
        "resize_width": SIZE, "resample": "box", "crop": "none", "rescale": 1 / 255,
        "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "RGB", "layout": "NCHW",
    }  # fmt: skip
    card = {
        "task": "image-classification", "labels": list(map(str, range(CLASSES))),
        "pictures": pictures, "licence": "apache-2.0",
    }  # fmt: skip
    return module, (np.zeros((1, 3, SIZE, SIZE), np.float32),), card


def digits(seed: int) -> tuple[tuple[UINT8, UINT8], tuple[UINT8, UINT8]]:
    """Pictures uint8 [n, 8, 8] with their digits [n]: those to learn from, and those held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingLibraryError(
            "digits-cnn", "scikit-learn is not installed", way_out="pip install scikit-learn"
        ) from error
    data = load_digits()
    pictures = np.rint(data.images * (255 / LARGEST)).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(pictures))
    held_out, learnt = np.split(order, [round(HELD_OUT * len(order))])
    labels = data.target.astype(np.uint8)
    return (pictures[learnt], labels[learnt]), (pictures[held_out], labels[held_out])


def prepared(pictures: UINT8) -> Tensor:
    """float32 [n, 3, 8, 8] in [-1, 1], as the card says."""
    grey = torch.from_numpy(pictures.astype(np.float32) / 255 * 2 - 1)
    return grey[:, None].expand(-1, 3, -1, -1).contiguous()


def train(learnt: tuple[UINT8, UINT8], seed: int) -> DigitsCnn:
    """A network from seeded weights, the same on any number of cores."""
    with _reproducible(seed):
        module, pixels = DigitsCnn(), prepared(learnt[0])
        labels = torch.from_numpy(learnt[1].astype(np.int64))
        optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=0.01)
        steps = EPOCHS * -(-len(labels) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                functional.cross_entropy(module(_shifted(pixels[rows])), labels[rows]).backward()
                optimizer.step()
                schedule.step()
    return module.eval()


def _shifted(pixels: Tensor) -> Tensor:
    """A batch moved by up to a pixel, background coming in."""
    left, top = torch.randint(3, (2,)).tolist()
    padded = functional.pad(pixels, (1, 1, 1, 1), value=-1.0)
    return padded[:, :, top : top + SIZE, left : left + SIZE]


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread, so that sums have one order; what was set before is set again after."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


@torch.inference_mode()
def accuracy(module: nn.Module, rows: tuple[UINT8, UINT8]) -> float:
    """Share of pictures whose digit has the highest score."""
    found = module(prepared(rows[0])).argmax(1).numpy()
    return float((found == rows[1]).mean())


def write(module: nn.Module, held_out: tuple[UINT8, UINT8], out: Path) -> None:
    """The weights, and pictures/<digit>/<number>.png for `--data`."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), out / WEIGHTS)
    for number, (picture, label) in enumerate(zip(*held_out, strict=True)):
        file = out / PICTURES / str(label) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=folder(), help=f"default: ${FOLDER}, {DEFAULT}")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    try:
        learnt, held_out = digits(chosen.seed)
        module = train(learnt, chosen.seed)
        write(module, held_out, chosen.out)
    except EdgecompileError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    share = accuracy(module, held_out)
    print(f"{share:.4f} of {len(held_out[1])} held-out digits right; {chosen.out}")


if __name__ == "__main__":
    main()
