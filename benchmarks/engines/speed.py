"""Speed of all rows, interleaved: every round opens each row's file in a fresh process."""
from __future__ import annotations

import json
import os
import statistics
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import Client
from quality import Texts
from rows import Made, Row

NEW_TOKENS = 128
WARM_TOKENS = 8
GENERATIONS = 3  # a round
CALLS, WARM_CALLS = 50, 10  # of an encoder, a round


@dataclass(frozen=True)
class Figure:
    """Over rounds; one value a round."""

    median: float
    least: float
    most: float


class Speeds:
    """Rounds measured so far for one list of rows, kept in a file after each."""

    def __init__(self, file: Path, names: Sequence[str], again: bool) -> None:
        self._file = file
        self._kept: dict[str, Any] = {"rows": list(names), "rounds": [], "load": []}
        if file.exists():
            kept = json.loads(file.read_text("utf-8"))
            if not again and set(names) <= set(kept["rows"]):
                self._kept = kept

    @property
    def rounds(self) -> int:
        """How many are complete."""
        return len(self._kept["rounds"])

    @property
    def load(self) -> tuple[float, float]:
        """Least and most load average when a round began: how busy the machine was."""
        loads = self._kept["load"] or [float("nan")]
        return min(loads), max(loads)

    def figure(self, name: str, key: str) -> Figure | None:
        """A figure of one row over all rounds."""
        values = [found[name][key] for found in self._kept["rounds"] if key in found.get(name, {})]
        return Figure(statistics.median(values), min(values), max(values)) if values else None

    def versions(self) -> dict[str, str]:
        """Engine -> version, as the workers said."""
        found = {}
        for measured in self._kept["rounds"]:
            found |= {row["library"]: row["version"] for row in measured.values()}
        return found

    def measure(self, texts: Texts, rows: Mapping[Row, Made], rounds: int) -> None:
        """Rounds until there are so many; who goes first changes every round."""
        while self.rounds < rounds:
            order = list(rows.items())
            at = self.rounds * len(order) // rounds
            self._kept["load"].append(os.getloadavg()[0])
            found = {}
            for row, made in order[at:] + order[:at]:
                print(f"round {self.rounds + 1}/{rounds}: {row.name}", flush=True)
                try:
                    found[row.name] = once(texts, row, made)
                except Exception:  # a peer that breaks must not stop the others
                    traceback.print_exc()
            self._kept["rounds"].append(found)
            self._save()

    def _save(self) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self._kept, indent=1), "utf-8")
        partial.rename(self._file)


def once(texts: Texts, row: Row, made: Made) -> dict[str, Any]:
    """One row's figures from one process: medians of its calls."""
    with Client(row, made, texts.setup.threads) as client:
        found: dict[str, Any] = {
            "load_seconds": client.hello["load_seconds"], "library": row.library,
            "version": client.hello["version"],
        }  # fmt: skip
        found |= _encode(texts, client) if row.task == "embedding" else _generate(texts, client)
        return found | {"peak_mib": client.ask("memory")["peak_mib"]}


def _encode(texts: Texts, client: Client) -> dict[str, float]:
    ids = texts.full_text()
    client.ask("latency", ids=ids, repeats=WARM_CALLS)
    times = client.ask("latency", ids=ids, repeats=CALLS)["latency_ms"]
    return {"latency_ms": statistics.median(times), "fast_latency_ms": min(times)}


def _generate(texts: Texts, client: Client) -> dict[str, float]:
    ids, prompt = texts.prompt()
    client.ask("generate", ids=ids, prompt=prompt, count=WARM_TOKENS)
    runs = [
        client.ask("generate", ids=ids, prompt=prompt, count=NEW_TOKENS)
        for _ in range(GENERATIONS)
    ]
    short = [run["count"] for run in runs if run["count"] != NEW_TOKENS]
    if short:
        raise RuntimeError(f"{short} tokens generated, not {NEW_TOKENS}")
    return {
        key: statistics.median(run[key] for run in runs)
        for key in ("first_token_ms", "tokens_per_second", "fast_tokens_per_second")
    }
