"""The results as Markdown, one table a model."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import Made, Row
from speed import Figure, Speeds

# Keys of speed.py -> column; `undisturbed` is the best of all rounds.
DECODER = {"first_token_ms": "first token ms", "tokens_per_second": "tokens/s"}
ENCODER = {"latency_ms": "ms a text"}


def render(
    task: str, rows: Mapping[Row, Made], speeds: Speeds, qualities: Mapping[Row, dict[str, Any]]
) -> str:
    """One line a row, medians with least and most of the rounds in brackets."""
    encoder = task == "embedding"
    domains = sorted({domain for found in qualities.values() for domain in found}, reverse=True)
    quality = "cosine worst / 1st percentile / mean" if encoder else "KL, top-1"
    head = ["tool", "target", "engine", "precision", "MB", "export s / processor s", "load s"]
    columns = ENCODER if encoder else DECODER
    head += [*columns.values(), "undisturbed", "peak MiB"]
    head += [f"{domain}: {quality}" for domain in domains]
    lines = [head]
    for row, made in rows.items():
        cells = [*row.cells, f"{made.megabytes:.1f}", _export(made)]
        cells.append(_one(speeds.figure(row.name, "load_seconds"), 2))
        digits = 2 if encoder else 1
        cells += [_spread(speeds.figure(row.name, key), digits) for key in columns]
        cells.append(_undisturbed(row.name, speeds, encoder))
        cells.append(_one(speeds.figure(row.name, "peak_mib"), 0))
        cells += [_quality(qualities[row].get(domain), encoder) for domain in domains]
        lines.append(cells)
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the head."""
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def put(document: Path, name: str, text: str) -> None:
    """Replace what stands between the comments `begin NAME` and `end NAME` of a document."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = document.read_text("utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{document}: no {begin} ... {end}")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def _export(made: Made) -> str:
    """The command's seconds; for ours what of it was the check, and what was reused."""
    if not made.took.wall:
        return ""
    parts = [f"check {made.stages['check']:.0f}"] if "check" in made.stages else []
    parts += [f"{stage} reused" for stage in made.reused]
    said = f"{made.took.wall:.0f}" + (f" / {made.took.cpu:.0f}" if made.took.cpu else "")
    return said + (f" ({', '.join(parts)})" if parts else "")


def _one(figure: Figure | None, digits: int) -> str:
    return f"{figure.median:.{digits}f}" if figure else ""


def _undisturbed(name: str, speeds: Speeds, encoder: bool) -> str:
    if encoder:
        figure = speeds.figure(name, "fast_latency_ms")
        return f"{figure.least:.2f}" if figure else ""
    figure = speeds.figure(name, "fast_tokens_per_second")
    return f"{figure.most:.1f}" if figure else ""


def _spread(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return ""
    low, high = f"{figure.least:.{digits}f}", f"{figure.most:.{digits}f}"
    return f"{figure.median:.{digits}f} ({low}-{high})"


def _quality(found: dict[str, float] | None, encoder: bool) -> str:
    if not found:
        return ""
    if encoder:
        keys = ("worst", "first_percentile", "mean")
        return " / ".join(f"{found[key]:.4f}" for key in keys)
    return f"{found['kl']:.4f} ± {found['kl_error']:.4f}, {found['top1']:.3f}"
