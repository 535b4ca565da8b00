"""edgecompile compare, and what `check --record` and `check --against` share with it."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompile.cli import cli, output

if TYPE_CHECKING:
    from edgecompile.releases.release import Release
    from edgecompile.report import Row

PATH = click.Path(path_type=Path)
SHARE = click.FloatRange(min=0, max=1e3)


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much may be lost beyond the old release, given to the command as `rule`."""
    options = [
        click.option("--tolerance", type=SHARE, default=0.1, show_default=True,
                     help="Share of what each limit allows that may be lost to the old release."),
        click.option("--size-drift", "size", type=SHARE, default=0.01, show_default=True),
        click.option("--time-drift", "time", type=SHARE, default=0.15, show_default=True),
        click.option("--memory-drift", "memory", type=SHARE, default=0.10, show_default=True),
        click.option("--unpaired", is_flag=True,
                     help="Compare other text, or another source, as independent samples."),
    ]  # fmt: skip

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        from edgecompile.releases.regression import Rule

        fields = ("tolerance", "size", "time", "memory", "unpaired")
        rule = Rule(**{name: values.pop(name) for name in fields})
        return command(rule=rule, **values)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


@cli.command("compare")
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--source", help="The model that bundles were built from, as for check.")
@click.option("--data", type=PATH, help="Held-out text for bundles, as for check.")
@click.option("--recipe", type=PATH, help="Limits and metrics of your own, as for check.")
@click.option("--allow", multiple=True, metavar="NAME",
              help="As for check; and unproven: fail only what is proven worse.")
@rule_options
@output.FORMAT
@click.pass_context
def compare_command(
    context: click.Context, /, old: Path, new: Path, rule: Any, form: str, **asked: Any,
) -> None:  # fmt: skip
    """Fail on a regression of NEW against OLD: bundles, or baselines that check --record wrote."""
    from edgecompile.progress import Bars
    from edgecompile.releases import regression, release

    request = release.Request(**asked)
    with Bars(output.errors(), context.obj["quiet"]) as bars:
        sides = [release.measured(place, request, bars) for place in (old, new)]
    rows = release.lost(sides[0].baseline, sides[1].baseline, rule, request.allow)
    if form == "json":
        output.dump(release.to_json(sides[0], sides[1], rows))
    else:
        _headline(sides)
        columns = ("metric ", "value ", "interval ", "limit ", "verdict")
        output.table("", columns, map(_cells, rows))
        for row in rows:
            if row.detail and row.verdict != "pass":
                click.echo(f"{row.metric}: {row.detail}")
        output.console().print(f"verdict: {regression.verdict_of(rows)}")
    release.exit_with(str(new), rows)


def _headline(sides: list[Release]) -> None:
    for name, side in zip(("old", "new"), sides, strict=True):
        header = side.baseline.header
        output.console().print(
            f"{name}: {side.place}: {header.model} for {header.target}, {header.width}, "
            f"{header.engine} {header.engine_version}, manifest {header.manifest_sha256[:16]}"
        )


def _cells(row: Row) -> tuple[str, ...]:
    """A row of the table: what was lost, its interval, what is allowed."""
    ends = "" if row.low is None or row.high is None else f"{row.low:.3g} to {row.high:.3g}"
    value = f"{row.value:.4g}" if math.isfinite(row.value) else "none"
    limit = "" if row.limit is None else f"{row.limit:.4g}"
    return row.metric, value, ends, limit, row.verdict
