"""Codes that were calibrated beside the same codes after distill_codes, at equal bytes.

    python benchmarks/smaller/quantized.py MODEL --data DIR [--task TASK] [--methods rtn gptq awq]
        [--set KEY=VALUE]... [--codes KEY=VALUE]... [--limit 200] [--tokens 4096] [--work FOLDER]

DIR holds python-library.txt, which calibration and training read, and python-tutorial.txt and
drama.txt, which they do not. `--set` are settings of all rows, `--codes` those of [distill_codes].
Of an encoder `limit` paragraphs of each text are compared with the source in floats, of a decoder
windows of 512 tokens. Both sides run in torch float32 with the codes: exactly what every engine's
file holds (tests/passes/test_distill_codes.py).
"""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import held_out
import numpy as np
import options as common
from numpy.typing import NDArray

from edgecompile import build, sources
from edgecompile.metrics import cosine, rank, recall, worst
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.plan import Request, plan
from edgecompile.reference import Reference
from edgecompile.text.source_tokens import FolderTokens

Losses = NDArray[np.float64]  # [samples]: KL divergence by window, or 1 - cosine by paragraph


def main() -> None:
    """Print a line for every row and text as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="")
    parser.add_argument("--methods", nargs="+", default=["rtn", "gptq", "awq"])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--codes", action="append", default=[])
    parser.add_argument("--limit", type=int, default=200, help="Paragraphs of a text.")
    parser.add_argument("--tokens", type=int, default=4096, help="Tokens of a text.")
    parser.add_argument("--work", type=Path, help="For the source's logits.")
    options = parser.parse_args()
    say(common.machine())
    say(f"{Path(options.model).name}: {' '.join(options.settings)}; {' '.join(options.codes)}")
    with tempfile.TemporaryDirectory() as folder:
        compare(options, options.work or Path(folder))


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compare(options: argparse.Namespace, work: Path) -> None:
    """All rows against the source."""
    source = sources.load(sources.resolve(options.model, task=options.task), lambda *_: None)
    decoder = source.task == "text-generation"
    judge = Windows(source, options, work) if decoder else Paragraphs(source, options)
    for method in options.methods:
        settings = (f"quantize.method={method}", *options.settings)
        learned = tuple(f"distill_codes.{one}" for one in options.codes or ["soft=1"])
        before: dict[str, Losses] = {}
        for name, more in ((method, ()), (f"{method} + distill_codes", learned)):
            model, seconds = coded(options, (*settings, *more))
            row = f"{name} | {megabytes(model):.2f} MB | {seconds:.0f} s"
            for text, losses, found in judge.scores(model):
                against = paired(losses, before[text]) if more else ""
                before.setdefault(text, losses)
                say(f"| {row} | {text} | {found} | {against} |")


def paired(losses: Losses, before: Losses) -> str:
    """How much less is lost than before, with its standard error over the same samples."""
    changes = (losses - before) / before.mean()
    return f"{changes.mean():+.1%} ± {changes.std(ddof=1) / len(changes) ** 0.5:.1%}"


def coded(options: argparse.Namespace, settings: Sequence[str]) -> tuple[Model, float]:
    """The model after its passes, and the seconds that they took (those in the cache take none)."""
    request = Request(
        options.model, ("null",), Path("unused"), settings=tuple(settings), task=options.task,
        data=options.data / held_out.CALIBRATION,
    )  # fmt: skip
    planned, start = plan(request), time.perf_counter()
    source = sources.load(planned.source, lambda *_: None)
    model = build.run_passes(planned, planned.targets[0], source, lambda *_: None)
    return model, time.perf_counter() - start


def megabytes(model: Model) -> float:
    """10^6 bytes of packed codes, of scales in float16 and of other tensors in float32."""
    total = 0.0
    for name, info in model.weights.infos.items():
        if name in model.quantized:
            tensor = model.quantized[name]
            total += tensor.codes.size * tensor.scheme.bits / 8 + 2 * tensor.scales.size
        else:
            total += 4 * float(np.prod(info.shape))
    return total / 1e6


class Windows:
    """A decoder's next-token distributions."""

    def __init__(self, source: Model, options: argparse.Namespace, work: Path) -> None:
        self.texts = {
            name: held_out.Source(
                source, held_out.windows(source, options.data / file, options.tokens), work
            )
            for name, file in held_out.DOMAINS.items()
        }

    def scores(self, model: Model) -> Iterator[tuple[str, Losses, str]]:
        """KL divergence from the source (with its standard error by window), perplexity, top-1."""
        reference = Reference(model, "sdpa")
        with reference.quantized(model.quantized, model.replaced):
            for name, text in self.texts.items():
                found = (reference.logits(ids.tolist()) for ids in text.windows)
                every = held_out.compare(text, found)
                seen = held_out.Summary.of(every)
                yield name, np.array([one.kl for one in every]), (
                    f"KL {seen.kl:.4f} ± {seen.kl_error:.4f} | perplexity {seen.perplexity:.2f} "
                    f"({seen.source_perplexity:.2f}) | top-1 {seen.top1:.3f}"
                )


class Paragraphs:
    """An encoder's vectors."""

    def __init__(self, source: Model, options: argparse.Namespace) -> None:
        tokens = FolderTokens(source, source.pooling.max_length if source.pooling else 256)
        reference = Reference(source, "sdpa")
        self.texts: dict[str, tuple[list[list[int]], Float32]] = {}
        for name, file in held_out.DOMAINS.items():
            ids = tokens.encode(paragraphs(options.data / file, options.limit))
            self.texts[name] = ids, reference.embed(ids)

    def scores(self, model: Model) -> Iterator[tuple[str, Losses, str]]:
        """Cosine with the source's vectors, rank correlation of similarities, recall at 10."""
        reference = Reference(model, "sdpa")
        with reference.quantized(model.quantized, model.replaced):
            for name, (ids, expected) in self.texts.items():
                found = reference.embed(ids)
                cosines = cosine.cosines(expected, found)
                yield name, 1 - cosines.astype(np.float64), self._score(expected, found, cosines)

    @staticmethod
    def _score(expected: Float32, found: Float32, cosines: Float32) -> str:
        error = cosines.std(ddof=1) / len(cosines) ** 0.5
        near, other = (np.where(np.eye(len(v), dtype=bool), -1.0, v @ v.T)
                       for v in (expected, found))  # fmt: skip
        return (
            f"1 - cosine {1 - cosines.mean():.5f} ± {error:.5f} | "
            f"p1 {worst(cosines, 0.01, 'higher'):.4f} | "
            f"rank correlation {rank.measure(expected, found).value:.4f} | "
            f"recall at 10 {recall.shared_nearest(near, other).mean():.3f}"
        )


def paragraphs(file: Path, limit: int) -> list[str]:
    """So many paragraphs, spread evenly over the text."""
    blocks = [" ".join(block.split()) for block in file.read_text("utf-8").split("\n\n")]
    found = [block for block in blocks if len(block) > 60]
    places = np.linspace(0, len(found) - 1, min(limit, len(found))).astype(int)
    return [found[place] for place in places]


if __name__ == "__main__":
    main()
