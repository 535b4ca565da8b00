"""Zeros in a decoder's weights, and windows for its attention: what either costs in perplexity.

    python benchmarks/smaller/sparse.py --data DIR [--model MODEL] [--tokens 8192] [--texts 16]
        [--keep FOLDER] [--only zeros|windows] [--patterns "2:4" ...] [--methods wanda ...]

DIR holds text/python-library.txt, which the passes are calibrated on, and text/python-tutorial.txt,
which perplexity is measured on. Prints the machine, the versions and a line for each way: by
magnitude, Wanda and SparseGPT at 50 % and 2:4 in windows of 512 tokens; then sliding windows on
texts of 2048 tokens. What zeros do to speed and size is zeros_speed.py's.
"""
from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import options as common

if TYPE_CHECKING:
    from edgecompile.model import Model

ZEROS: Mapping[str, Mapping[str, Any]] = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}}
METHODS = ("wanda", "sparsegpt")
WINDOWS = (256, 0), (512, 0), (1024, 0), (512, 4), (512, 2)  # positions, every n-th layer dense
SHORT, LONG = 512, 2048  # tokens of a text


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--texts", type=int, default=16, help="Windows of 512 to calibrate on.")
    parser.add_argument("--keep", type=Path, help="Folder for the checkpoints; default: none.")
    parser.add_argument("--only", choices=("zeros", "windows"))
    parser.add_argument("--patterns", nargs="+", choices=ZEROS, default=list(ZEROS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    print(common.machine())
    print(f"{options.model}, {options.tokens} tokens of python-tutorial.txt; calibrated on "
          f"{options.texts} x 512 of python-library.txt", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep or Path(folder)
        for part in (zeros, windows):
            if options.only in (None, part.__name__):
                part(options, keep)


def zeros(options: argparse.Namespace, keep: Path) -> None:
    """The three ways to choose zeros, in two patterns."""
    text = options.data / "text" / "python-tutorial.txt"
    model = load(options.model)
    texts = pieces(model, text, SHORT, options.tokens)
    say("as it came", perplexity(model, texts))
    for name in options.patterns:
        pattern = ZEROS[name]
        say(f"magnitude {name}", perplexity(by_magnitude(model, pattern), texts))
        for method in options.methods:
            start = time.perf_counter()
            settings = [f"prune.{key}={value}" for key, value in pattern.items()]
            settings = [f"prune.method={method}", f"prune.texts={options.texts}", *settings]
            folder = made(options, keep / f"{method}-{name[0]}", settings)
            seconds = time.perf_counter() - start
            say(f"{method} {name}", perplexity(load(str(folder)), texts), f"{seconds:.0f} s")


def windows(options: argparse.Namespace, keep: Path) -> None:
    """Sliding windows on long texts."""
    text = options.data / "text" / "python-tutorial.txt"
    model = load(options.model)
    texts = pieces(model, text, LONG, options.tokens)
    say(f"dense, {LONG} tokens", perplexity(model, texts))
    for size, every in WINDOWS:
        settings = [f"attention.window={size}", f"attention.dense_every={every}"]
        folder = made(options, keep / f"window-{size}-{every}", settings)
        more = f"each {every}. layer dense" if every else ""
        say(f"window {size}, {LONG} tokens", perplexity(load(str(folder)), texts), more)
        shutil.rmtree(folder)


def made(options: argparse.Namespace, out: Path, settings: Sequence[str]) -> Path:
    """What `edgecompile compress` writes."""
    from edgecompile.compress import compress
    from edgecompile.plan import Request

    text = (options.data / "text" / "python-library.txt").absolute()
    settings = (*settings, f"data.calibration={text}")
    request = Request(options.model, (), settings=settings, overwrite=True)
    return compress(request, out, lambda *_: None).folder


def load(name: str) -> Model:
    """A model by name or folder."""
    from edgecompile import sources

    return sources.load(sources.resolve(name), lambda *_: None)


def by_magnitude(model: Model, pattern: Mapping[str, Any]) -> dict[str, Any]:
    """The matrices of its blocks without their smallest values; the model itself under ``."""
    from edgecompile.numerics.sparse import Pattern, magnitude
    from edgecompile.structure import roles

    chosen = Pattern.parse(pattern["pattern"]) if "pattern" in pattern else Pattern(0.5)
    names = [n for n, role in roles(model).items() if role == "linear" and ".layers." in n]
    return {"": model, **{n: magnitude(model.weights[n].float(), chosen) for n in names}}


def pieces(model: Model, text: Path, size: int, tokens: int) -> list[list[int]]:
    """tokens / size windows of token ids, spread evenly over the text."""
    from edgecompile.text.source_tokens import FolderTokens

    [ids] = FolderTokens(model, 0).encode([text.read_text("utf-8")])
    count = tokens // size
    step = (len(ids) - size) // max(1, count - 1)
    return [list(ids[at : at + size]) for at in range(0, step * count, step)]


def perplexity(given: Model | Mapping[str, Any], texts: Iterable[Sequence[int]]) -> float:
    """exp of the mean surprisal of every token after a text's first, in torch, float32."""
    import torch

    from edgecompile.numerics.swap import parameter_names
    from edgecompile.reference import Reference

    changed: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"": given}
    reference = Reference(changed.pop(""), "sdpa")
    names = parameter_names(reference.body, changed)
    for name, weights in changed.items():
        reference.body.get_parameter(names[name]).data = weights
    total, count = 0.0, 0
    for ids in texts:
        row = torch.tensor([list(ids)])
        with torch.inference_mode():
            logits = reference.body(input_ids=row, use_cache=False).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return math.exp(total / count)


def say(what: str, value: float, more: str = "") -> None:
    """One line."""
    print(f"{what:28} perplexity {value:8.2f}  {more}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
