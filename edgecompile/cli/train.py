"""edgecompile train."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as Eta

from edgecompile.cli import cli, output
from edgecompile.host import let_threads_sleep

PATH = click.Path(path_type=Path)
TASKS = ("classification", "token-classification", "text-ranking", "embedding", "fill-mask",
         "text-generation")  # fmt: skip


@cli.command("train")
@click.argument("model")
@click.option("--data", type=PATH, help="Rows to learn: JSONL, CSV, Parquet or text.")
@click.option("--held-out", type=PATH, help="Rows to measure; default: a tenth of the data.")
@click.option("--task", default="", type=click.Choice(["", *TASKS]),
              help="Where neither model nor labels say it.")
@click.option("--recipe", type=PATH, help="A recipe for a MODEL that is a path.")
@click.option("--variant", default="", help="A named change of the recipe.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change one option, for example train.lr=3e-5.")
@click.option("-o", "--out", type=PATH, required=True, help="Folder of the trained model.")
@click.option("--resume", is_flag=True, help="Go on with a run that was not finished.")
@click.option("--overwrite", is_flag=True, help="Replace an existing folder.")
@output.FORMAT
@click.pass_context
def train_command(context: click.Context, /, form: str, **values: Any) -> None:
    """Train MODEL on your rows and save it as a folder that `build` takes.

    Start it with `accelerate launch` or torchrun for several processes.
    """
    let_threads_sleep()
    from edgecompile.train.parallel import leave
    from edgecompile.train.run import Request, train

    quiet = context.obj["quiet"] or os.environ.get("RANK", "0") != "0"
    with _shown(output.errors(), quiet) as watch:
        trained = train(Request(**values), watch, lambda *_: None)
    leave()
    if not trained.main:
        return
    if form == "json":
        output.dump({"folder": str(trained.folder), "report": str(trained.report),
                     **trained.summary})  # fmt: skip
    elif not quiet:
        _tell(trained)


def _tell(trained: Any) -> None:
    summary = trained.summary
    for one in summary["tasks"]:
        click.echo(
            f"{one['name'] or one['task']}: {one['training_rows']} rows learned, "
            f"{one['held_out_rows']} held out ({one['held_out']}), {one['dropped']} dropped"
        )
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in summary["held_out"].items())
    click.echo(f"{trained.folder}: {summary['steps']} steps; held out: {numbers or 'nothing'}")
    click.echo(f"curve and report: {trained.report}")


@contextmanager
def _shown(console: Console, quiet: bool) -> Iterator[Any]:
    """A watcher of steps: one bar with loss, rate, tokens a second and the time left."""
    columns = (TextColumn("train"), BarColumn(bar_width=10), TextColumn("{task.description}"),
               Eta())  # fmt: skip
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bars:
        bar: list[TaskID] = []

        def watch(row: Any) -> None:
            if not bar:
                bar.append(bars.add_task("", total=row.total))
            text = (f"{row.step}/{row.total} loss {row.loss:.4f} rate {row.lr:.2e} "
                    f"{row.tokens_per_second:.0f} tokens/s")  # fmt: skip
            bars.update(bar[0], completed=row.step, description=text)

        yield watch
