"""Tables for people, JSON for machines."""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

FORMAT = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text",
    help="text for people, json for machines.",
)  # fmt: skip


def console() -> Console:
    """Where tables go: standard output; progress goes to standard error."""
    return Console(soft_wrap=False, highlight=False)


def errors() -> Console:
    """Where progress and notes go."""
    return Console(stderr=True, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a column whose name ends in a space is aligned to the right."""
    drawn = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        right = column.endswith(" ")
        drawn.add_column(  # folded where a word is too long, never cut
            column.strip(), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    console().print(drawn)


def dump(value: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def megabytes(size: float) -> str:
    """Bytes as MB (10^6), one digit after the point below 100."""
    value = size / 1e6
    return f"{value:.1f} MB" if value < 100 else f"{value:.0f} MB"
