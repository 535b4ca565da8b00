"""Ways to fine-tune a small encoder: schedules, augmentation, LoRA, two tasks at once.

    python benchmarks/training/ways.py --data DIR --work FOLDER [--model MODEL] [--seed 0]
        [--rows linear exponential ...] [--threads N]

DIR holds sections-train.jsonl and sections-validation.jsonl; home-commands writes its own rows.
Rates were set before any row was run: those of docs/training.md and of home-commands' recipe, ten
times as much for LoRA (as for SmolLM2). Two tasks in one encoder (`both`) have as many epochs as
each of them alone (`-short`: half of the recipe's, which is row `home`). FOLDER keeps models and
answers: a stopped run goes on.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("common", "smaller")]

import options as common
import steps
from table import against

_AUGMENT = ("syntax", "templates", "synonyms", "spans", "words", "punctuation", "case",
            "characters")  # fmt: skip
TUNED = ("train.epochs=4", "train.batch=16", "train.lr=2e-4")
SHORT = ("train.epochs=2", "train.batch=32", "train.lr=4e-4", "train.length=64")  # recipe's half
HOME = "home-commands"


@dataclass(frozen=True)
class Way:
    """Options of one run, what it answers (`sections`, `home`), and the row it is compared with."""

    settings: tuple[str, ...]
    asked: tuple[str, ...] = ("sections",)
    beside: Mapping[str, str] | None = None  # by what is asked


_LINEAR = {"sections": "linear"}
ROWS = {
    "linear": Way(TUNED),
    "exponential": Way((*TUNED, "train.schedule=exponential"), beside=_LINEAR),
    "cosine": Way((*TUNED, "train.schedule=cosine"), beside=_LINEAR),
    "augmented": Way((*TUNED, *(f"train.augment.{one}=true" for one in _AUGMENT)), beside=_LINEAR),
    "lora": Way((*TUNED, "train.lr=2e-3", "train.lora.rank=16", "train.lora.alpha=32"),
                beside=_LINEAR),
    "home": Way((), ("home",)),
    "sections-short": Way(SHORT),
    "home-short": Way(SHORT, ("home",)),
    "both": Way(SHORT, ("sections", "home"), {"sections": "sections-short", "home": "home-short"}),
}  # fmt: skip


def main() -> None:
    """Make and ask what is not there yet, then print all rows that are."""
    parser = common.parser(__doc__, "all-minilm-l6-v2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    options = common.given(parser)
    print(f"{common.machine()}\nthreads: {options.threads}", flush=True)
    for name in options.rows:
        if not answers_of(options, name).exists():
            steps.saved(answers_of(options, name), run(options, name, ROWS[name]))
    print(markdown(options))


def answers_of(options: argparse.Namespace, name: str) -> Path:
    """The file that keeps a row."""
    work: Path = options.work
    return work / "ways" / f"{options.seed}-{name}.json"


def run(options: argparse.Namespace, name: str, way: Way) -> dict[str, Any]:
    """Train, and answer every held-out row of what is asked."""
    folder = options.work / "models" / f"{options.seed}-{name}"
    start = time.perf_counter()
    if not folder.exists():
        trained(options, folder, way)
    found: dict[str, Any] = {"settings": way.settings, "seconds": time.perf_counter() - start}
    for asked in way.asked:
        model = folder / asked if len(way.asked) > 1 else folder
        right = steps.answers_on(held_out(options)[asked], model)
        found[asked] = "".join(map(str, right.astype(int)))
        print(f"{name}: {asked} {right.mean():.4f}, {found['seconds']:.0f} s", flush=True)
    return found


def trained(options: argparse.Namespace, folder: Path, way: Way) -> None:
    """`edgecompile train`."""
    from edgecompile.train.run import Request, train

    fixed = [f"train.seed={options.seed}", f"train.threads={options.threads}"]
    given: dict[str, Any] = {"model": options.model, "task": "classification"}
    if way.asked == ("home",):
        given = {"model": HOME}
    elif len(way.asked) > 1:
        fixed += tasks(options)
        given["data"] = options.data / steps.TRAIN
    else:
        given |= {"data": options.data / steps.TRAIN, "held_out": options.data / steps.VALIDATION}
    request = Request(out=folder, settings=(*way.settings, *fixed), resume=True, **given)
    train(request, lambda _row: None, steps.quiet)


def tasks(options: argparse.Namespace) -> list[str]:
    """`[train.tasks]` of both."""
    home, found = home_rows(options), []
    files = {"sections": (options.data / steps.TRAIN, options.data / steps.VALIDATION),
             "home": (home / "train.jsonl", home / "validation.jsonl")}  # fmt: skip
    for name, (data, held) in files.items():
        found += [f"train.tasks.{name}.data={data.resolve()}",
                  f"train.tasks.{name}.held_out={held.resolve()}"]  # fmt: skip
    return found


def home_rows(options: argparse.Namespace) -> Path:
    """Folder of home-commands' train, validation and test.jsonl, written where they are not."""
    from edgecompile import sources
    from edgecompile.train import script

    folder: Path = options.work / "home-rows"
    if not (folder / "test.jsonl").exists():
        script.rows(sources.resolve(HOME).recipe, folder)
    return folder


def held_out(options: argparse.Namespace) -> dict[str, Path]:
    """Rows that nothing learns from and nothing is chosen on."""
    return {"sections": options.data / steps.VALIDATION,
            "home": home_rows(options) / "test.jsonl"}  # fmt: skip


def markdown(options: argparse.Namespace) -> str:
    """Accuracy, and the paired difference to the row beside it with its interval."""
    files = {name: answers_of(options, name) for name in ROWS}
    rows = {name: json.loads(file.read_text("utf-8")) for name, file in files.items()
            if file.exists()}  # fmt: skip
    lines = ["| row | asked | accuracy | beside | difference | seconds |", "|---" * 6 + "|"]
    lines += [line(name, asked, rows, found) for name, found in rows.items()
              for asked in ROWS[name].asked]  # fmt: skip
    return "\n".join(lines)


def line(name: str, asked: str, rows: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """One row of the table."""
    import numpy as np

    def bits(text: Sequence[str]) -> Any:
        return np.array([[float(bit) for bit in text]])

    beside = (ROWS[name].beside or {}).get(asked, "")
    gap = against(bits(found[asked]), bits(rows[beside][asked]))[0] if beside in rows else ""
    mean = bits(found[asked]).mean()
    return f"| {name} | {asked} | {mean:.4f} | {beside} | {gap} | {found['seconds']:.0f} |"


if __name__ == "__main__":
    main()
