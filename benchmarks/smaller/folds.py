"""The last rows of the encoder's table in five folds: each row of both files is held out once.

    python benchmarks/smaller/folds.py --data DIR --work FOLDER [--folds 0 1 2 3 4] [--threads N]

In each fold a model is fine-tuned on four parts with seed 0, pruned by gradient and recovered on
them, loses tokens that they do not use (all of them, or down to 12,288 or 16,384), is built in
int8, and answers the fifth part. Options are those of sections.py. FOLDER keeps models and answers:
a stopped run goes on, and folds may run in several processes. Prints each fold, and all with a
paired interval over all rows.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import numpy as np
import options as common
import sections
import steps
from table import against

FOLDS = 5
METHODS = (  # "none" is what the others are beside
    "none", "gradient", "gradient-16384", "gradient-12288", "gradient-vocab",
)  # fmt: skip
Rows = Mapping[str, Mapping[str, Any]]  # by method


def main() -> None:
    """Make and ask what is not there yet, then print all folds that are."""
    parser = common.parser(__doc__, "all-minilm-l6-v2")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=range(FOLDS))
    options = common.given(parser)
    print(f"{common.machine()}\nthreads: {options.threads}", flush=True)
    for fold in options.folds:
        place = {"data": parted(options.data, options.work / f"fold-{fold}" / "data", fold),
                 "work": options.work / f"fold-{fold}"}  # fmt: skip
        asked(argparse.Namespace(**{**vars(options), **place}))
    print(markdown(options.work))


def parted(data: Path, folder: Path, fold: int) -> Path:
    """Both files' rows in two files of `folder`: a seeded fifth is held out."""
    files = (data / steps.TRAIN, data / steps.VALIDATION)
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    random.Random(0).shuffle(lines)
    folder.mkdir(parents=True, exist_ok=True)
    for name, inside in ((steps.TRAIN, False), (steps.VALIDATION, True)):
        part = [line for at, line in enumerate(lines) if (at % FOLDS == fold) == inside]
        (folder / name).write_text("".join(line + "\n" for line in part), "utf-8")
    return folder


def asked(options: argparse.Namespace) -> None:
    """The rows of one fold."""
    teacher = sections.fine_tuned(options, 0)
    for method in METHODS:
        sections.made(options, 0, method, teacher)
        file = options.work / "rows" / f"{method}.json"
        if not file.exists():
            steps.saved(file, sections.row(options, 0, method))
            print(file, flush=True)


def markdown(work: Path) -> str:
    """Shares right of each fold, then of all rows, beside the fine-tuned models in float32."""
    places = [work / f"fold-{fold}" / "rows" for fold in range(FOLDS)]
    whole = [place for place in places if all((place / f"{m}.json").exists() for m in METHODS)]
    folds = [{m: json.loads((place / f"{m}.json").read_text("utf-8")) for m in METHODS}
             for place in whole]  # fmt: skip
    head = f"{len(folds)} folds"
    lines = [f"| {head} | rows right by fold | of all | difference | kept |", "|---" * 5 + "|"]
    lines += [line(folds, method, step) for method in METHODS for step in ("after", "int8")]
    return "\n".join(lines if folds else [head])


def line(folds: Sequence[Rows], method: str, step: str) -> str:
    """One method in floats (`after` its recovery) or in int8."""
    found, base = right(folds, method, step), right(folds, "none", "after")
    each = ", ".join(f"{part.mean():.3f}" for part in found)
    both = against(*(np.concatenate(one)[None] for one in (found, base)))
    mean = np.concatenate(found).mean()
    return f"| {method}, {step} | {each} | {mean:.4f} | {' | '.join(both)} |"


def right(folds: Sequence[Rows], method: str, step: str) -> list[Any]:
    """float64 [rows] of each fold, 1 where right."""
    return [np.array([float(bit) for bit in fold[method][step]]) for fold in folds]


if __name__ == "__main__":
    main()
