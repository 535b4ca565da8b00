"""A decoder without the tokens that technical prose does not need, beside quantization alone.

    python benchmarks/smaller/decoder_vocabulary.py --data DIR --work FOLDER [--model MODEL]
        [--min-count 1] [--measured 4096] [--threads N]

Tokens that text/python-library.txt does not use go (but for a split of it that nothing reads), and
what is left is built in 8 bits; the whole model beside it in 8 bits, and in 4 and 8 bits at the
smaller one's size. Perplexity is of the same text, over the whole vocabulary's number of tokens.
FOLDER keeps models and numbers: a stopped run goes on.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import language_model as lm
import measured
import options as common

TARGETS = ("cpu", "gguf")


def main() -> None:
    """Make what is not there yet, measure it, print a table (tokens a second by engine)."""
    parser = common.parser(__doc__, "smollm2-135m-instruct")
    parser.add_argument("--min-count", type=int, default=1)
    parser.add_argument("--measured", type=int, default=4096, help="tokens a text")
    given = common.given(parser)
    run = lm.Run(given.data, given.work, given.model, 0, 0, 0, given.measured, [], given.threads)
    run.work.mkdir(parents=True, exist_ok=True)
    print(lm.machine(run), flush=True)
    lm.split(run)
    settings = (f"prune.vocab.min_count={given.min_count}",)
    smaller = lm.compressed(run, run.model, f"vocab-{given.min_count}", settings)
    print(table(run, smaller), flush=True)


def table(run: lm.Run, smaller: str) -> str:
    """Both in floats, then the three bundles with sizes and speeds."""
    name = Path(smaller).name
    share = lm.parameters(smaller) / lm.parameters(run.model)
    mixed = (*lm.MIXED, f"allocate_bits.bits_per_weight={8.03 * share:.2f}")
    lines = [["", "parameters", "MB (GGUF)", "tuning", "tutorial", "drama", "ONNX Runtime",
              "llama.cpp"]]  # fmt: skip
    for kept, place in (("source", run.model), (name, smaller)):
        lines.append([kept, millions(place), "", *perplexities(run, kept, place), "", ""])
    rows = {"whole, 8 bits": ("source-int8", run.model, lm.INT8),
            f"{name}, 8 bits": (f"{name}-int8", smaller, lm.INT8),
            "whole, 4 and 8 bits in that size": (f"source-{name}-size", run.model, mixed),
            }  # fmt: skip
    bundles = {target: {row: lm.built(run, *what, target) for row, what in rows.items()}
               for target in TARGETS}  # fmt: skip
    speeds = {target: measured.speeds(found, run.threads) for target, found in bundles.items()}
    for row, (kept, place, _) in rows.items():
        sizes = [f"{measured.megabytes(bundles[target][row]):.1f}" for target in TARGETS]
        lines.append([row, millions(place), f"{sizes[0]} ({sizes[1]})",
                      *perplexities(run, kept, str(bundles["cpu"][row])),
                      *(fast(speeds[target], row) for target in TARGETS)])  # fmt: skip
    return lm.markdown(lines)


def millions(place: str) -> str:
    """Parameters."""
    return f"{lm.parameters(place) / 1e6:.1f} M"


def perplexities(run: lm.Run, kept: str, place: str) -> list[str]:
    """Of the tuning split and both texts."""
    from edgecompile import sources

    whole = sources.load(sources.resolve(run.model, task=lm.TASK), lambda *_: None)
    files, file = measured.texts(run.data, run.tuning), run.work / f"{kept}-{run.measured}.json"
    found = measured.same_text(place, whole, files, run.measured, file)
    return [f"{found[text]:.2f}" for text in ("tuning", "tutorial", "drama")]


def fast(speeds: Mapping[str, tuple[float, float]], row: str) -> str:
    """Median and best tokens a second."""
    return f"{speeds[row][0]:.1f} ({speeds[row][1]:.1f})"


if __name__ == "__main__":
    main()
