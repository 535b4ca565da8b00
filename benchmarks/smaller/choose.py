"""Compare options without the validation rows: on a seeded 15 % of the training rows.

    python benchmarks/smaller/choose.py --data DIR --work FOLDER [--threads N] CANDIDATES

CANDIDATES has a line for each: a name, then options of `edgecompile compress` (--set) apart by
spaces. The teacher is fine-tuned on the other 85 % with seed 0, and nothing else is learned from.
Prints, and adds to FOLDER/choose.jsonl, the accuracy of each on the rows held out.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import options as common
import sections
import steps

SHARE = 0.15


def main() -> None:
    """One line a candidate."""
    parser = common.parser(__doc__, "all-minilm-l6-v2")
    parser.add_argument("candidates", type=Path)
    options = common.given(parser)
    options.data = parted(options.data / steps.TRAIN, options.work / "parted")
    teacher = sections.fine_tuned(options, 0)
    base = steps.float_answers(teacher, options.data)
    print(f"fine-tuned: {base.mean():.4f} of {len(base)}", flush=True)
    for text in options.candidates.read_text("utf-8").splitlines():
        name, *settings = text.split()
        print(json.dumps(tried(options, teacher, name, settings)), flush=True)


def parted(file: Path, folder: Path) -> Path:
    """The training rows in two files of `folder`, as sections.py names them."""
    lines = file.read_text("utf-8").splitlines()
    order = list(range(len(lines)))
    random.Random(0).shuffle(order)
    held = set(order[: round(SHARE * len(lines))])
    folder.mkdir(parents=True, exist_ok=True)
    for name, inside in ((steps.TRAIN, False), (steps.VALIDATION, True)):
        part = [line for index, line in enumerate(lines) if (index in held) == inside]
        (folder / name).write_text("".join(line + "\n" for line in part), "utf-8")
    return folder


def tried(
    options: argparse.Namespace, teacher: Path, name: str, settings: list[str]
) -> dict[str, object]:
    """The accuracy of one candidate."""
    start, folder = time.perf_counter(), options.work / "tried" / name
    threads = (f"distill.train.threads={options.threads}",)
    training = threads if any(one.startswith("distill.") for one in settings) else ()
    notes = steps.compress(teacher, folder, options.data, [*settings, *training])
    found = {
        "name": name, "settings": settings, "notes": notes,
        "accuracy": round(float(steps.float_answers(folder, options.data).mean()), 4),
        "encoder": steps.size_of(folder).encoder, "seconds": round(time.perf_counter() - start),
    }  # fmt: skip
    with (options.work / "choose.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    return found


if __name__ == "__main__":
    main()
