"""Whether zeros make a bundle faster or smaller: one decoder, dense and with zeros, by engine.

    python benchmarks/smaller/zeros_speed.py --data DIR [--engines gguf openvino] [--bits 8]

DIR is where models and bundles go. The decoder is a Llama of three layers, 1024 wide, with random
weights (how fast zeros are does not depend on what the others say); half of its blocks' weights
become zeros by magnitude, or 2 of each 4. Bundles are sealed without a check and timed in turns on
one thread: the first token after 128, then tokens a second; bytes of the model's files, as they are
and deflated as in a ZIP archive.
"""
from __future__ import annotations

import argparse
import platform
import shutil
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the tests' small tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from edgecompile.model import Model
    from edgecompile.numerics.sparse import Pattern

ENGINES = "onnxruntime", "gguf", "executorch", "openvino"
SIZES = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 3,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 512,
    "initializer_range": 0.03,
}  # fmt: skip


def main() -> None:
    """Print a line for each engine, width and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    from edgecompile.host import cpu_level, cpu_name

    print(f"{cpu_name()}, {cpu_level()}, one thread, {platform.python_version()}", flush=True)
    models = made(options.data / "models")
    for bits in options.bits:
        for engine in options.engines:
            show(engine, bits, models, options)


def made(folder: Path) -> Mapping[str, Path]:
    """The dense decoder and those with zeros, by name."""
    from edgecompile.numerics.sparse import Pattern
    from tests import tiny

    shutil.rmtree(folder, ignore_errors=True)
    dense = load(tiny.llama(folder / "dense", **SIZES))
    patterns = {"50 %": Pattern(0.5), "2:4": Pattern.parse("2:4")}
    found = {"dense": dense.folder}
    for index, (name, pattern) in enumerate(patterns.items()):
        found[name] = folder / f"zeros-{index}"
        write(dense, found[name], pattern)
    return found


def write(model: Model, folder: Path, pattern: Pattern) -> None:
    """The model with zeros in its blocks' matrices."""
    from edgecompile.numerics.sparse import magnitude
    from edgecompile.pruning import checkpoint

    def tensor(name: str) -> Tensor:
        value = model.weights[name]
        inside = ".layers." in name and value.ndim == 2
        return (magnitude(value, pattern) if inside else value).contiguous()

    checkpoint.write(model, folder, model.config, list(model.weights), tensor)


def load(folder: Path) -> Model:
    """A model by its folder."""
    from edgecompile import sources

    return sources.load(sources.resolve(str(folder)), lambda *_: None)


def show(
    engine: str, bits: int, models: Mapping[str, Path], options: argparse.Namespace
) -> None:
    """Lines of one engine."""
    from edgecompile.bench import bench

    paths = [
        sealed(model, engine, bits, options.data / "bundles" / f"{engine}-{bits}-{model.name}")
        for model in models.values()
    ]
    rows = bench(paths, options.rounds, 128, 1, lambda *_: None)
    for name, path, row in zip(models, paths, rows, strict=True):
        files = [one.read_bytes() for one in (path / "model").rglob("*") if one.is_file()]
        whole, deflated = (sum(map(len, one)) / 1e6 for one in
                           (files, [zlib.compress(file, 6) for file in files]))  # fmt: skip
        first, rate = row["first_token_ms"], row["tokens_per_second"]
        print(f"{engine:12} int{bits} {name:6} first token {first['median']:6.1f} ms (least "
              f"{first['min']:6.1f}), {rate['median']:6.1f} tokens/s (most {rate['max']:6.1f}), "
              f"{whole:6.2f} MB, zipped {deflated:6.2f} MB", flush=True)  # fmt: skip


def sealed(model: Path, engine: str, bits: int, out: Path) -> Path:
    """A bundle of codes rounded to nearest."""
    from edgecompile import build, bundle
    from edgecompile.plan import Request, plan

    settings = ["quantize.method=rtn", f"quantize.bits={bits}"]
    target = "gguf" if engine == "gguf" else "cpu"
    settings += [] if engine == "gguf" else [f"target.backend={engine}"]
    request = Request(str(model), (target,), out.parent, settings=tuple(settings), overwrite=True)
    planned = plan(request)
    [one] = planned.targets
    quantized = build.run_passes(planned, one, load(model), lambda *_: None)
    for folder in (out, files := out.with_suffix(".files")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    export = one.backend.export(quantized, files, lambda *_: None)
    bundle.assemble(bundle.Contents(quantized, one.target, "", export, ()), files, out)
    shutil.rmtree(files)
    return out


if __name__ == "__main__":
    main()
