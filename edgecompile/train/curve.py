"""curve.svg: the loss of every step, the held-out measures and the rate, in one file by itself."""
from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 60, 28, 40
COLOURS = ("#1f5fbf", "#c2571a", "#2b8a3e", "#8a8a8a")
POINTS = 600  # of a line at most; more steps are averaged

Points = Sequence[tuple[float, float]]


def draw(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    """An SVG of the rows in metrics.jsonl; the same text from the same rows."""
    losses = thinned([(row["step"], row["loss"]) for row in rows])
    rates = thinned([(row["step"], row["lr"]) for row in rows])
    checked = [(row["step"], row["held_out"]) for row in rows if row.get("held_out")]
    measured = [(step, found[measure]) for step, found in checked if measure in found]
    held_loss = [(step, found["loss"]) for step, found in checked if "loss" in found]
    last = max((row["step"] for row in rows), default=1)
    top = max([value for _, value in [*losses, *held_loss]] or [1.0])
    lines = [
        _line(losses, last, top, COLOURS[0], "loss"),
        _line(held_loss, last, top, COLOURS[1], "held-out loss", dots=True),
        _line(rates, last, max([v for _, v in rates] or [1.0]), COLOURS[3], "learning rate"),
    ]
    if measure != "loss":
        lines.append(_line(measured, last, 1.0, COLOURS[2], f"held-out {measure}", dots=True))
    return _page(lines, last, top)


def thinned(points: Points) -> Points:
    """At most POINTS of them: means of equal runs; values that are no number are left out."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    run = max(1, math.ceil(len(finite) / POINTS))
    parts = [finite[at : at + run] for at in range(0, len(finite), run)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _line(
    points: Points, last: float, top: float, colour: str, name: str, dots: bool = False
) -> str:
    places = [(_x(x, last), _y(y, top)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    title = f"<title>{html.escape(name)}</title>"
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{html.escape(name)} '
        f"{value:.5g} at step {step:g}</title></circle>"
        for (x, y), (step, value) in zip(places, points, strict=True) if dots
    )  # fmt: skip
    line = f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}">'
    return f"{line}{title}</polyline>{marks}"


def _x(step: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / (top or 1.0)


def _page(lines: Sequence[str], last: float, top: float) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    names = ("loss", "held-out loss", "held-out measure (0 to 1)", "learning rate (own scale)")
    legend = "".join(
        f'<text x="{LEFT + 165 * n}" y="16" fill="{colour}">{name}</text>'
        for n, (name, colour) in enumerate(zip(names, COLOURS, strict=True))
    )
    ticks = "".join(
        f'<text x="{_x(last * part, last):.0f}" y="{bottom + 16}" text-anchor="middle">'
        f"{last * part:.0f}</text>"
        f'<text x="{LEFT - 6}" y="{_y(top * part, top) + 4:.0f}" text-anchor="end">'
        f"{top * part:.3g}</text>"
        f'<text x="{right + 6}" y="{_y(part, 1) + 4:.0f}">{part:g}</text>'
        for part in (0, 0.25, 0.5, 0.75, 1)
    )
    frame = f'<path d="M{LEFT} {TOP}V{bottom}H{right}V{TOP}" fill="none" stroke="#888"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'{frame}{legend}{ticks}{"".join(lines)}<text x="{(LEFT + right) // 2}" '
        f'y="{HEIGHT - 6}" text-anchor="middle">step</text></svg>\n'
    )
