"""Half of a fine-tuned encoder pruned by each method, recovered, and built: answers at each step.

    python benchmarks/smaller/sections.py --data DIR --work FOLDER [--model MODEL]
        [--seeds 0 1 2] [--methods none l2 gradient activation depth] [--threads N]

DIR holds sections-train.jsonl and sections-validation.jsonl. README.md says how options were
chosen; table.py prints what was found.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too

import steps

TUNED = ("train.epochs=4", "train.lr=2e-4", "train.batch=16")
FLOAT = ("quantize.method=none",)


def main() -> None:
    """One file of answers a seed and method; those that are there are not made again."""
    from methods import METHODS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    about(options)
    for seed in options.seeds:
        teacher = fine_tuned(options, seed)
        for method in options.methods:
            file = options.work / "rows" / f"{seed}-{method}.json"
            if not file.exists():
                steps.saved(file, row(options, seed, method, teacher))
                print(file, flush=True)


def about(options: argparse.Namespace) -> None:
    """The machine, the versions and the options, printed and kept."""
    from edgecompile.host import cpu_level, cpu_name, usable_cores
    from edgecompile.train.run import versions

    found = {
        "machine": f"{cpu_name()}, {cpu_level()}, {usable_cores()} cores",
        "versions": versions(), "model": options.model, "threads": options.threads,
    }  # fmt: skip
    print(json.dumps(found), flush=True)
    steps.saved(options.work / "about.json", found)


def fine_tuned(options: argparse.Namespace, seed: int) -> Path:
    """The folder of the seed's fine-tuned model."""
    from edgecompile.train.run import Request, train

    out: Path = options.work / "models" / f"{seed}-none"
    if out.exists():
        return out
    settings = (*TUNED, f"train.seed={seed}", f"train.threads={options.threads}")
    data, held_out = options.data / steps.TRAIN, options.data / steps.VALIDATION
    request = Request(
        options.model, out, data, held_out, "classification", settings=settings, resume=True
    )
    return train(request, lambda _row: None, steps.quiet).folder


def row(options: argparse.Namespace, seed: int, method: str, teacher: Path) -> dict[str, Any]:
    """Answers before recovery, after it, and of the int8 bundle; sizes, notes, seconds."""
    from methods import METHODS, RECOVERY

    start, models = time.perf_counter(), options.work / "models"
    found: dict[str, Any] = {"seed": seed, "method": method}
    folder, cut = teacher, METHODS[method]
    if cut:
        folder, bare = models / f"{seed}-{method}", models / f"{seed}-{method}-cut"
        steps.compress(teacher, bare, options.data, cut)
        found["before"] = bits(steps.float_answers(bare, options.data))
        train = (f"distill.train.seed={seed}", f"distill.train.threads={options.threads}")
        found["settings"] = [*cut, *RECOVERY, *train]
        found["notes"] = steps.compress(teacher, folder, options.data, found["settings"])
    found["seconds"] = time.perf_counter() - start
    found["after"] = bits(steps.float_answers(folder, options.data))
    found["size"] = dataclasses.asdict(steps.size_of(folder))
    bundles = options.work / "bundles" / f"{seed}-{method}"
    int8 = steps.build(folder, bundles / "int8", options.data)
    found["int8"] = bits(steps.bundle_answers(int8, options.data))
    found["int8_mb"], found["int8_name"] = steps.bundle_mb(int8), str(int8)
    found["float_name"] = str(steps.build(folder, bundles / "float32", options.data, FLOAT))
    return found


def bits(right: steps.Right) -> str:
    """1 where an answer is right."""
    return "".join(map(str, right.astype(int)))


if __name__ == "__main__":
    main()
