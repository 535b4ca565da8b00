"""Latency of all rows' graphs in ONNX Runtime, one call after the other in turns.

    python benchmarks/smaller/latency.py --work FOLDER --data DIR [--seed 0] [--rounds 15]
        [--threads 1 2]

Every graph of one seed is open in this process; in each round each of `--texts` validation rows
(and one text of 128 tokens) is classified by all of them, one after the other. Kept in FOLDER.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import steps
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from transformers import AutoTokenizer

Inputs = Mapping[str, NDArray[np.int64]]
Rounds = Sequence[Sequence[float]]
LONG = "the quick brown fox jumps over the lazy dog " * 20  # cut at 128 tokens


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
        for length, part in (("validation rows", texts), ("128 tokens", [LONG] * 3)):
            places = graphs(options)
            given = {name: asked(options, name.split()[0], part) for name in places}
            times = measured(places, given, options.rounds, threads)
            found[f"{length}, threads: {threads}"] = summary(times)
            about = {"load": os.getloadavg()[0], "rounds": options.rounds, "texts": options.texts}
            steps.saved(options.work / "latency.json", {**about, **found})


def graphs(options: argparse.Namespace) -> dict[str, str]:
    """Graphs of the seed, by method and step."""
    found = {}
    for file in sorted((options.work / "rows").glob(f"{options.seed}-*.json")):
        row = json.loads(file.read_text("utf-8"))
        for step in ("float", "int8"):
            found[f"{row['method']} {step}"] = row[f"{step}_graph"]
    return found


def session(file: str, threads: int) -> InferenceSession:
    """ONNX Runtime as the bundle's runtime sets it up."""
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return InferenceSession(file, options, providers=["CPUExecutionProvider"])


def asked(options: argparse.Namespace, method: str, texts: Sequence[str]) -> list[Inputs]:
    """Each text by the method's own tokenizer, int64 [1, tokens]."""
    folder = options.work / "models" / f"{options.seed}-{method}"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        one = tokenizer(text, return_tensors="np", truncation=True, max_length=128)
        found.append({name: np.asarray(value, np.int64) for name, value in one.items()})
    return found


def measured(
    places: Mapping[str, str], given: Mapping[str, Sequence[Inputs]], rounds: int, threads: int
) -> dict[str, Rounds]:
    """Milliseconds [rounds][texts] by graph; who is first changes with every round."""
    times: dict[str, list[list[float]]] = {name: [] for name in places}
    sessions = {name: session(place, threads) for name, place in places.items()}
    takes = {name: {i.name for i in one.get_inputs()} for name, one in sessions.items()}
    for number in range(rounds + 1):  # the first warms up
        one: dict[str, list[float]] = {name: [] for name in places}
        order = list(sessions)
        order = order[number % len(order) :] + order[: number % len(order)]
        for index in range(len(given[order[0]])):
            for name in order:
                text = given[name][index]
                feed = {key: value for key, value in text.items() if key in takes[name]}
                start = time.perf_counter()
                sessions[name].run(None, feed)
                one[name].append(1000 * (time.perf_counter() - start))
        if number:
            for name, each in one.items():
                times[name].append(each)
    return times


def summary(times: Mapping[str, Rounds]) -> dict[str, Any]:
    """Milliseconds, and how many times faster than the fine-tuned model, in the same step.

    `ms` is the median of rounds' medians. `least_ms` is the mean over texts of each one's least
    time, which other work on the machine disturbs less.
    """
    middle = {name: [statistics.median(one) for one in each] for name, each in times.items()}
    least = {
        name: statistics.mean(map(min, zip(*each, strict=True))) for name, each in times.items()
    }
    found = {}
    for name, each in middle.items():
        base = f"none {name.split()[1]}"
        faster = [a / b for a, b in zip(middle[base], each, strict=True)]
        found[name] = {
            "ms": statistics.median(each), "least_ms": least[name],
            "faster": statistics.median(faster), "faster_least": least[base] / least[name],
            "faster_than_float": least["none float"] / least[name],
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
