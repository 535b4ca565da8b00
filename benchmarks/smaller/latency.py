"""Latency of all rows' bundles in ONNX Runtime, one call after the other in turns.

    python benchmarks/smaller/latency.py --work FOLDER --data DIR [--seed 0] [--rounds 15]
        [--threads 1 2]

Every bundle of one seed is open in this process; in each round each of `--texts` validation rows
(and one text of 128 tokens) is classified by all bundles, one after the other. Kept in FOLDER.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import steps

LONG = "the quick brown fox jumps over the lazy dog " * 14  # 128 tokens with the two at its ends


def main() -> None:
    """Medians over rounds, and the ratio to the fine-tuned model in each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    texts = steps.read(options.data / steps.VALIDATION)[0][: options.texts]
    found = {}
    for threads in options.threads:
        for length, given in (("short", texts), ("long", [LONG])):
            times = measured(bundles(options), given, options.rounds, threads)
            found[f"{length}, {threads} threads"] = summary(times)
    steps.saved(options.work / "latency.json", {
        "load": os.getloadavg()[0], "rounds": options.rounds, "texts": options.texts, **found
    })  # fmt: skip


def bundles(options: argparse.Namespace) -> dict[str, str]:
    """Bundle folders of the seed, by method and step."""
    found = {}
    for file in sorted((options.work / "rows").glob(f"{options.seed}-*.json")):
        row = json.loads(file.read_text("utf-8"))
        for step in ("float", "int8"):
            found[f"{row['method']} {step}"] = row[f"{step}_name"]
    return found


def measured(
    places: Mapping[str, str], texts: Sequence[str], rounds: int, threads: int
) -> dict[str, list[float]]:
    """Milliseconds a text in each round, by bundle; who is first changes with every round."""
    from edgecompile.runtime import load

    times: dict[str, list[float]] = {name: [] for name in places}
    with contextlib.ExitStack() as stack:
        sessions = {
            name: stack.enter_context(load(Path(place), threads=threads))
            for name, place in places.items()
        }
        for number in range(rounds + 1):  # the first warms up
            one = {name: list[float]() for name in places}
            order = list(sessions)
            order = order[number % len(order) :] + order[: number % len(order)]
            for text in texts:
                for name in order:
                    start = time.perf_counter()
                    sessions[name].classify([text])
                    one[name].append(1000 * (time.perf_counter() - start))
            if number:
                for name, each in one.items():
                    times[name].append(statistics.median(each))
    return times


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians, and how many times faster than the fine-tuned model of the same step."""
    found = {}
    for name, each in times.items():
        base = times[f"none {name.split()[1]}"]
        float_base = times["none float"]
        faster = sorted(a / b for a, b in zip(base, each, strict=True))
        found[name] = {
            "ms": statistics.median(each), "least_ms": min(each), "faster": faster[len(faster) // 2],
            "faster_from": faster[len(faster) // 10], "faster_to": faster[-1 - len(faster) // 10],
            "faster_than_float": statistics.median(
                a / b for a, b in zip(float_base, each, strict=True)
            ),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
