"""A short full fine-tune in 16-bit mixed precision: the model leaves the grid that it shipped on.

    python benchmarks/quantization/finetune.py MODEL OUT --text python-library.txt [--steps 30]

MODEL is anything that `edgecompile build` takes; OUT becomes a Hugging Face folder in bfloat16.
"""
from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from edgecompile import sources
from edgecompile.model import Model
from edgecompile.reference import Reference

SEED = 7


def batches(tokens: torch.Tensor, window: int, size: int, steps: int) -> Iterator[torch.Tensor]:
    """`steps` batches int64 [size, window] of windows in a seeded order."""
    pieces = tokens[: len(tokens) // window * window].view(-1, window)
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(SEED))
    for step in range(steps):
        yield pieces[order[torch.arange(step * size, step * size + size) % len(order)]]


def train(model: Model, tokens: torch.Tensor, options: argparse.Namespace) -> torch.nn.Module:
    """AdamW under bfloat16 autocast with float32 master weights, cosine decay after a warm-up."""
    body = Reference(model, "sdpa").body
    body.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(body.parameters(), options.rate, weight_decay=0.01)
    started = time.perf_counter()
    for step, ids in enumerate(batches(tokens, options.window, options.batch, options.steps)):
        warm = min(1.0, (step + 1) / 5)
        rate = options.rate * warm * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            loss = body(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(body.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"step {step + 1}/{options.steps} loss {loss.item():.3f} "
              f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
    return body


def save(model: Model, body: torch.nn.Module, out: Path) -> None:
    """A Hugging Face folder: bfloat16 weights under the source's names, config, tokenizer."""
    out.mkdir(parents=True)
    for file in model.folder.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and "index" not in file.name:
            shutil.copyfile(file, out / file.name)
    (out / "config.json").write_text(json.dumps(dict(model.config) | {"dtype": "bfloat16"}))
    state = body.state_dict()
    kept = {name: state[name].to(torch.bfloat16).contiguous() for name in model.weights}
    save_file(kept, out / "model.safetensors", {"format": "pt"})


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-4)
    options = parser.parse_args()
    model = sources.load(sources.resolve(options.model), lambda *_: None)
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    tokens = torch.tensor(tokenizer.encode(options.text.read_text("utf-8")).ids)
    save(model, train(model, tokens, options), options.out)


if __name__ == "__main__":
    main()
