"""Half of a fine-tuned encoder pruned by each method, recovered, and built: answers at each step.

    python benchmarks/smaller/sections.py --data DIR --work FOLDER [--model MODEL]
        [--seeds 0 1 2] [--methods none l2 ...] [--threads N]

DIR holds sections-train.jsonl and sections-validation.jsonl. README.md says how options were
chosen; table.py prints what was found.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import options as common
import steps

TUNED = ("train.epochs=4", "train.lr=2e-4", "train.batch=16")


def main() -> None:
    """One file of answers a seed and method; those that are there are not made again."""
    from methods import METHODS, ROWS

    parser = common.parser(__doc__, "all-minilm-l6-v2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=ROWS)
    options = common.given(parser)
    about(options)
    for seed in options.seeds:
        teacher = fine_tuned(options, seed)
        for method in options.methods:
            made(options, seed, method, teacher)
        for method in options.methods:
            file = options.work / "rows" / f"{seed}-{method}.json"
            if not file.exists():
                steps.saved(file, row(options, seed, method))
                print(file, flush=True)


def about(options: argparse.Namespace) -> None:
    """The machine, the versions and the options, printed and kept."""
    here, libraries = common.machine().splitlines()
    found = {
        "machine": here, "versions": json.loads(libraries),
        "model": options.model, "threads": options.threads,
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


def made(options: argparse.Namespace, seed: int, method: str, teacher: Path) -> None:
    """The folders before and after recovery, and a file beside them with options and notes."""
    from methods import AFTER, METHODS, RECOVERY

    out, cut = options.work / "models" / f"{seed}-{method}", METHODS[method]
    file = out.with_name(out.name + ".json")
    if not cut or file.exists():
        return
    start = time.perf_counter()
    if method in AFTER:
        recovered = options.work / "models" / f"{seed}-{AFTER[method]}"
        notes = steps.compress(recovered, out, options.data, cut)
        return steps.saved(file, {"settings": cut, "notes": notes, "seconds": 0.0})
    steps.compress(teacher, out.with_name(out.name + "-cut"), options.data, cut)
    train = (f"distill.train.seed={seed}", f"distill.train.threads={options.threads}")
    settings = [*cut, *RECOVERY, *train]
    notes = steps.compress(teacher, out, options.data, settings)
    seconds = time.perf_counter() - start
    steps.saved(file, {"settings": settings, "notes": notes, "seconds": seconds})
    print(f"{out.name}: {'; '.join(notes)}, {seconds:.0f} s", flush=True)


def row(options: argparse.Namespace, seed: int, method: str) -> dict[str, Any]:
    """Answers before recovery, after it, and of the int8 bundle; sizes, notes, seconds."""
    folder = options.work / "models" / f"{seed}-{method}"
    found: dict[str, Any] = {"seed": seed, "method": method}
    cut = folder.with_name(folder.name + "-cut")
    if (how := folder.with_name(folder.name + ".json")).exists():
        found |= json.loads(how.read_text("utf-8"))
    if cut.exists():
        found["before"] = bits(steps.float_answers(cut, options.data))
    found["after"] = bits(steps.float_answers(folder, options.data))
    found["size"] = dataclasses.asdict(steps.size_of(folder))
    bundles = options.work / "bundles" / f"{seed}-{method}"
    int8, found["verdict"] = steps.build(folder, bundles / "int8", options.data)
    found["int8"] = bits(steps.bundle_answers(int8, options.data))
    found["int8_mb"] = steps.bundle_mb(int8)
    found["int8_graph"] = str(int8 / "model" / "model.onnx")
    found["float_graph"] = str(steps.float_graph(folder, bundles / "float32.onnx"))
    return found


def bits(right: steps.Right) -> str:
    """1 where an answer is right."""
    return "".join(map(str, right.astype(int)))


if __name__ == "__main__":
    main()
