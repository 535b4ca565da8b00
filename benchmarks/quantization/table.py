"""The results as Markdown: every row, and each of ours beside the best peer of its size."""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import DOMAINS, Score, Summary

ROUNDING = 0.5  # MB: files of llama.cpp differ so much by their metadata alone


@dataclass(frozen=True)
class Result:
    """One row as measured; `settings` and `digest` are empty for peers."""

    row: str
    engine: str
    megabytes: float
    note: str
    digest: str
    settings: str
    domains: dict[str, list[Score]]

    def kl(self, domain: str) -> float:
        """Mean over the domain's windows, nats."""
        return Summary.of(self.domains[domain]).kl


def read(files: Iterable[Path]) -> list[Result]:
    """The results that are there, in the given order."""
    found = []
    for file in files:
        if file.exists():
            table: dict[str, Any] = json.loads(file.read_text("utf-8"))
            scores = {d: [Score(**s) for s in rows] for d, rows in table.pop("domains").items()}
            found.append(Result(**table, domains=scores))
    return found


def rows(found: Sequence[Result]) -> str:
    """One line a row: size, quality by domain, engine, what the file holds."""
    head = ["row", "engine", "MB"]
    head += [f"{d}: {c}" for d in DOMAINS for c in ("KL", "perplexity (source)", "top-1")]
    lines = [[*head, "same digest in ONNX and GGUF", "matrices"]]
    for result in found:
        cells = [result.row, result.engine, f"{result.megabytes:.1f}"]
        for domain in DOMAINS:
            cells += _quality(Summary.of(result.domains[domain]))
        lines.append([*cells, _same_digest(result, found), result.note])
    return _markdown(lines)


def against(found: Sequence[Result]) -> str:
    """Each of ours and the peer with the least KL among those that are no larger.

    The ratio's standard error is of the same windows' differences (delta method).
    """
    lines = [["ours", "MB", "domain", "best peer no larger", "MB", "KL, ours / peer"]]
    for ours in found:
        if not ours.settings:
            continue
        limit = ours.megabytes + ROUNDING
        peers = [peer for peer in found if not peer.settings and peer.megabytes <= limit]
        for domain in DOMAINS if peers else ():
            best = min(peers, key=lambda peer: peer.kl(domain))
            lines.append([
                ours.row, f"{ours.megabytes:.1f}", domain, best.row, f"{best.megabytes:.1f}",
                _ratio(ours.domains[domain], best.domains[domain]),
            ])  # fmt: skip
    return _markdown(lines)


def _quality(summary: Summary) -> list[str]:
    """KL with its standard error, perplexity with the source's, agreement."""
    return [
        f"{summary.kl:.4f} ± {summary.kl_error:.4f}",
        f"{summary.perplexity:.2f} ({summary.source_perplexity:.2f})", f"{summary.top1:.3f}",
    ]  # fmt: skip


def _ratio(ours: Sequence[Score], peers: Sequence[Score]) -> str:
    a, b = (np.array([score.kl for score in side]) for side in (ours, peers))
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std(ddof=1) / math.sqrt(len(a)) / b.mean()
    return f"{ratio:.3f} ± {error:.3f}"


def _same_digest(result: Result, found: Sequence[Result]) -> str:
    """For ours: whether the other targets' bundles of the same settings have the same codes."""
    digests = [other.digest for other in found if other.settings == result.settings]
    if not result.settings or len(digests) < 2:
        return ""
    return "yes" if len(set(digests)) == 1 else "NO"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
