"""The table of what sections.py and latency.py found.

    python benchmarks/smaller/table.py --work FOLDER

Differences are of the same rows under the fine-tuned model of the same seed, averaged over seeds;
intervals are the middle 95 % of 10,000 resamples of the validation rows.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Answers = NDArray[np.float64]  # [seeds, rows], 1 where right
Rows = Sequence[Mapping[str, Any]]
RESAMPLES = 10_000


def main() -> None:
    """Markdown on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    rows = [json.loads(f.read_text("utf-8")) for f in sorted((options.work / "rows").glob("*"))]
    print((options.work / "about.json").read_text("utf-8"))
    timed = options.work / "latency.json"
    latency = json.loads(timed.read_text("utf-8")) if timed.exists() else {}
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    print("| row | seeds | encoder, all (M) | MB | before | after | difference | kept | int8 | MB "
          "| difference | kept |\n" + "|---" * 12 + "|")  # fmt: skip
    for method, found in by_method.items():
        print(line(method, found, by_method["none"]))
    for name, each in latency.items():
        if isinstance(each, Mapping):
            speeds(name, each)



def line(method: str, found: Rows, tuned: Rows) -> str:
    """One row of the table."""
    base = {row["seed"]: row for row in tuned}
    teacher = answers([base[row["seed"]] for row in found], "after")
    size, cells = found[0]["size"], [method, " ".join(str(row["seed"]) for row in found)]
    cells += [f"{size['encoder'] / 1e6:.2f}, {size['all'] / 1e6:.2f}", f"{size['mb']:.1f}"]
    before = f"{answers(found, 'before').mean():.3f}" if "before" in found[0] else ""
    after, int8 = answers(found, "after"), answers(found, "int8")
    cells += [before, spread(after), *against(after, teacher), spread(int8)]
    cells += [f"{found[0]['int8_mb']:.1f}", *against(int8, teacher)]
    return f"| {' | '.join(cells)} |"


def answers(rows: Rows, step: str) -> Answers:
    """Of each seed, 1 where a validation row is right."""
    return np.array([[float(bit) for bit in row[step]] for row in rows])


def spread(found: Answers) -> str:
    """The mean, and the standard deviation over seeds."""
    means = found.mean(1)
    return f"{means.mean():.3f}" + (f" ± {means.std(ddof=1):.3f}" if len(means) > 1 else "")


def against(found: Answers, base: Answers) -> tuple[str, str]:
    """The paired difference in points and the share kept, both with their interval."""
    pick = np.random.default_rng(0).integers(0, found.shape[1], (RESAMPLES, found.shape[1]))
    own, its = found.mean(0), base.mean(0)
    gaps = 100 * (own - its)[pick].mean(1)
    kept = own[pick].mean(1) / its[pick].mean(1)
    low, high = np.percentile(gaps, (2.5, 97.5))
    least, most = np.percentile(kept, (2.5, 97.5))
    gap = f"{100 * (own - its).mean():+.1f} [{low:+.1f}, {high:+.1f}]"
    return gap, f"{own.mean() / its.mean():.3f} [{least:.3f}, {most:.3f}]"


def speeds(name: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Milliseconds, and how many times faster than the fine-tuned model: medians, and the least."""
    print(f"\n{name}\n\n| row | ms | least | faster than the same step | at the least "
          "| than its float32, at the least |\n" + "|---" * 6 + "|")  # fmt: skip
    for row, one in found.items():
        times = f"{one['ms']:.2f} | {one['least_ms']:.2f}"
        faster = f"{one['faster']:.2f} | {one['faster_least']:.2f}"
        print(f"| {row} | {times} | {faster} | {one['faster_than_float']:.2f} |")


if __name__ == "__main__":
    main()
