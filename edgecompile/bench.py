"""`edgecompile bench`: bundles side by side on this machine, interleaved round by round."""
from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgecompile import host
from edgecompile.checks.costs import timed
from edgecompile.checks.device import python_for
from edgecompile.errors import UnsupportedError
from edgecompile.passes import Progress
from edgecompile.runtime import golden
from edgecompile.runtime.manifest import read_manifest
from edgecompile.runtime.threads import probed_cores
from edgecompile.runtime.worker_client import Worker
from edgecompile.tasks import IMAGE_TEXT, PAIRS, PER_TOKEN, TASKS, generates

SEED_TEXT = "the quick brown fox jumps over the lazy dog "


def bench(
    bundles: Sequence[Path], rounds: int, tokens: int, threads: int | None, progress: Progress
) -> list[dict[str, Any]]:
    """One row a bundle: median and spread of each figure over `rounds` that take turns."""
    threads = threads or probed_cores()  # the same for all, whatever each would find by itself
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(path, python_for(read_manifest(path).data), threads=threads))
            for path in bundles
        ]
        figures: list[dict[str, list[float]]] = [{} for _ in workers]
        for index in range(rounds):
            for worker, found in zip(workers, figures, strict=True):
                progress("bench", index, rounds)
                for name, value in _round(worker, tokens).items():
                    found.setdefault(name, []).append(value)
        progress("bench", rounds, rounds)
        return [
            _row(path, worker, found)
            for path, worker, found in zip(bundles, workers, figures, strict=True)
        ]


def _round(worker: Worker, tokens: int) -> dict[str, float]:
    task = worker.hello()["task"]
    if TASKS[task].takes == "arrays":
        raise UnsupportedError("bench", "a torch module", "text tasks", "see its check's latency")
    if TASKS[task].takes == "picture":
        pixels = worker.prepare([golden.picture(0)])
        return {"latency_ms": statistics.median(timed(lambda: worker.look(pixels), 5))}
    if TASKS[task].takes == "sound":
        sound = golden.sound(0, 3.0, int(worker.hello()["sampling_rate"]))
        factor = statistics.median(worker.transcribe(sound)["seconds"] for _ in range(3))
        return {"latency_ms": 1000 * factor}
    found = {}
    if task == IMAGE_TEXT:
        pixels = worker.prepare([golden.picture(0)])
        found["picture_ms"] = statistics.median(timed(lambda: worker.look(pixels), 5))
    ids = worker.tokenize([SEED_TEXT * (1 + tokens // 4)])[0][:tokens]
    if generates(task):
        timing = worker.generate_timed(ids[:64], tokens)
        return {n: timing[n] for n in ("first_token_ms", "tokens_per_second") if timing[n]}
    if task in ("embedding", IMAGE_TEXT):
        times = timed(lambda: worker.embed_ids([ids]), 5)
        return {"latency_ms": statistics.median(times), **found}
    if task in (*PER_TOKEN, *PAIRS):
        return {"latency_ms": statistics.median(timed(lambda: worker.rows([ids]), 5))}
    text = SEED_TEXT * (1 + tokens // 12)
    return {"latency_ms": statistics.median(timed(lambda: worker.classify([text]), 5))}


def _row(path: Path, worker: Worker, found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    hello = worker.hello()
    row: dict[str, Any] = {
        "bundle": path.name, "cpu": host.cpu_name(), "threads": hello["threads"],
        "load_ms": hello["load_seconds"] * 1000, "peak_memory_mib": worker.peak_memory(),
    }  # fmt: skip
    for name, values in found.items():
        row[name] = {
            "median": statistics.median(values), "min": min(values), "max": max(values),
        }  # fmt: skip
    return row


def render(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The rows as a table: medians, the spread in brackets."""
    console.print(f"{rows[0]['cpu']}, {rows[0]['threads']} threads")
    table = Table(box=None, pad_edge=False)
    figures = ("first_token_ms", "tokens_per_second", "latency_ms", "picture_ms")
    for name in ("bundle", "load_ms", *figures, "peak_memory_mib"):
        table.add_column(name, justify="left" if name == "bundle" else "right", overflow="fold")
    for row in rows:
        spread = (_spread(row.get(name)) for name in figures)
        memory = row["peak_memory_mib"]
        table.add_row(
            row["bundle"], f"{row['load_ms']:.0f}", *spread, f"{memory:.0f}" if memory else ""
        )
    console.print(table)


def _spread(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['median']:.1f} ({figure['min']:.1f}-{figure['max']:.1f})"
