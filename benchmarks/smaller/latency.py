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
    tokenizer = AutoTokenizer.from_pretrained(options.work / "models" / f"{options.seed}-none")
    texts = steps.read(options.data / steps.VALIDATION)[0][: options.texts]
    found = {}
    for threads in options.threads:
        for length, part in (("validation rows", texts), ("128 tokens", [LONG] * 8)):
            given = [inputs(tokenizer, text) for text in part]
            times = measured(graphs(options), given, options.rounds, threads)
            found[f"{length}, {threads} threads"] = summary(times)
    steps.saved(options.work / "latency.json", {
        "load": os.getloadavg()[0], "rounds": options.rounds, "texts": options.texts, **found
    })  # fmt: skip


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


def inputs(tokenizer: Any, text: str) -> dict[str, NDArray[np.int64]]:
    """Of one text, int64 [1, tokens] each."""
    found = tokenizer(text, return_tensors="np", truncation=True, max_length=128)
    return {name: np.asarray(value, np.int64) for name, value in found.items()}


def measured(
    places: Mapping[str, str], given: Sequence[Mapping[str, Any]], rounds: int, threads: int
) -> dict[str, list[float]]:
    """Milliseconds a text in each round, by graph; who is first changes with every round."""
    times: dict[str, list[float]] = {name: [] for name in places}
    sessions = {name: session(place, threads) for name, place in places.items()}
    takes = {name: {i.name for i in one.get_inputs()} for name, one in sessions.items()}
    for number in range(rounds + 1):  # the first warms up
        one: dict[str, list[float]] = {name: [] for name in places}
        order = list(sessions)
        order = order[number % len(order) :] + order[: number % len(order)]
        for text in given:
            for name in order:
                feed = {key: value for key, value in text.items() if key in takes[name]}
                start = time.perf_counter()
                sessions[name].run(None, feed)
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
            "ms": statistics.median(each), "least_ms": min(each),
            "faster": statistics.median(faster),
            "faster_from": faster[len(faster) // 10], "faster_to": faster[-1 - len(faster) // 10],
            "faster_than_float": statistics.median(
                a / b for a, b in zip(float_base, each, strict=True)
            ),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
