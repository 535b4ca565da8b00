"""Accuracy of a fine-tuned encoder on Debian's package sections, over seeds.

    python benchmarks/training/sections.py --data DIR [--model MODEL] [--seeds 0 1 2]
        [--set KEY=VALUE]... [--keep FOLDER]

DIR holds sections-train.jsonl and sections-validation.jsonl (16 classes). Prints the machine, the
versions, and for each seed the accuracy and macro F1 on the validation rows and the time taken.
"""
from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import options as common


def main() -> None:
    """Train once a seed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--keep", type=Path, help="Folder for the trained models; default: none.")
    options = parser.parse_args()
    print(common.machine())
    print(f"{options.model}, {' '.join(options.settings) or 'defaults'}")
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep or Path(folder)
        rows = [run(options, seed, keep / f"seed-{seed}") for seed in options.seeds]
    for name in ("accuracy", "macro_f1"):
        found = [row[name] for row in rows]
        spread = f", standard deviation {statistics.stdev(found):.4f}" if len(found) > 1 else ""
        print(f"{name}: mean {statistics.mean(found):.4f}{spread}")


def run(options: argparse.Namespace, seed: int, out: Path) -> dict[str, float]:
    """Metrics of one seed."""
    from edgecompile.train.run import Request, train

    settings = ("train.epochs=4", *options.settings, f"train.seed={seed}")
    start = time.perf_counter()
    trained = train(
        Request(
            options.model, out, options.data / "sections-train.jsonl",
            options.data / "sections-validation.jsonl", "classification", settings=settings,
            overwrite=True,
        ),
        lambda _row: None, lambda *_: None,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    found = {name: float(value) for name, value in trained.summary["held_out"].items()}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    print(f"seed {seed}: {shown}, {trained.summary['steps']} steps, {seconds:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
