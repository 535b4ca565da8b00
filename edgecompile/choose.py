"""Which of a target's backends to keep: sealed bundles, measured side by side in their engines."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import host
from edgecompile.bench import bench
from edgecompile.errors import UnsupportedError
from edgecompile.lock import Choice
from edgecompile.passes import Progress
from edgecompile.report import CheckReport

ROUNDS, TOKENS = 7, 64
# The first, which the target declares, is kept unless another is faster by more than this: within
# it two measurements on a shared machine may disagree.
MARGIN = 0.03


@dataclass(frozen=True)
class Candidate:
    """A sealed bundle of one backend, in a staging folder, and what its check found."""

    backend: str
    folder: Path
    report: CheckReport


def fastest(
    candidates: Sequence[Candidate], refused: Mapping[str, str], progress: Progress
) -> tuple[Candidate, tuple[Mapping[str, Any], ...]]:
    """The fastest that passes (the first where none does), and a row a backend, the chosen first.

    The score is milliseconds: of one text of 64 tokens, or of a prompt of 64 and 64 more tokens.
    """
    if not candidates:
        raise UnsupportedError("--relock", "; ".join(refused.values()), "one backend that can")
    passed = [one for one in candidates if one.report.verdict == "pass"]
    measured = bench([one.folder for one in passed], ROUNDS, TOKENS, None, progress)
    threads = measured[0]["threads"] if measured else 0
    scores = {one.backend: _score(row) for one, row in zip(passed, measured, strict=True)}
    chosen = _best(passed, scores) if passed else candidates[0]
    rows = [_row(one, scores.get(one.backend)) for one in candidates]
    rows += [_refused_row(backend, why) for backend, why in refused.items()]
    rows = [row | {"threads": threads} for row in rows]
    rows.sort(key=lambda row: (row["backend"] != chosen.backend, row["milliseconds"] or math.inf))
    return chosen, tuple(rows)


def locked(chosen: Candidate, ranking: Sequence[Mapping[str, Any]]) -> Choice:
    """What goes into the lock file."""
    scores = {r["backend"]: round(r["milliseconds"], 3) for r in ranking if r["milliseconds"]}
    return Choice(chosen.backend, host.cpu_name(), ranking[0]["threads"], scores)


def _best(passed: Sequence[Candidate], scores: Mapping[str, tuple[float, ...]]) -> Candidate:
    quickest = min(passed, key=lambda one: scores[one.backend][0])
    declared = passed[0]
    within = scores[declared.backend][0] <= scores[quickest.backend][0] * (1 + MARGIN)
    return declared if within else quickest


def _score(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Median, least and most milliseconds."""
    if "latency_ms" in row:
        one = row["latency_ms"]
        return one["median"], one["min"], one["max"]
    first, rate = row["first_token_ms"], row["tokens_per_second"]
    return (
        first["median"] + TOKENS * 1000 / rate["median"],
        first["min"] + TOKENS * 1000 / rate["max"],
        first["max"] + TOKENS * 1000 / rate["min"],
    )


def _row(one: Candidate, score: tuple[float, ...] | None) -> dict[str, Any]:
    bad = [row.metric for row in one.report.rows if row.verdict in ("fail", "unproven")]
    return {
        "backend": one.backend, "verdict": one.report.verdict,
        "milliseconds": score[0] if score else None, "spread": list(score[1:]) if score else [],
        "why": ", ".join(bad),
    }  # fmt: skip


def _refused_row(backend: str, why: str) -> dict[str, Any]:
    return {
        "backend": backend, "verdict": "not built", "milliseconds": None, "spread": [],
        "why": why,
    }  # fmt: skip
