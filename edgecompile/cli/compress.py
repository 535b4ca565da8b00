"""edgecompile compress."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecompile.cli import cli, output
from edgecompile.host import let_threads_sleep

PATH = click.Path(path_type=Path)


@cli.command("compress")
@click.argument("model")
@click.option("-o", "--out", type=PATH, required=True, help="Folder of the smaller model.")
@click.option("--variant", default="", help="A named change of the recipe.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change one option, for example prune.ratio=0.3.")
@click.option("--data", type=PATH, help="Text to measure and to learn from: JSONL, CSV or text.")
@click.option("--task", default="", help="Where the model does not say it.")
@click.option("--recipe", type=PATH, help="A recipe for a MODEL that is a path.")
@click.option("--overwrite", is_flag=True, help="Replace an existing folder.")
@output.FORMAT
@click.pass_context
def compress_command(
    context: click.Context, /, model: str, out: Path, form: str, **values: Any
) -> None:
    """Prune and distill MODEL by its recipe, to a folder that `build` and transformers take.

    `build` does the same on its way; this stops before anything is quantized.
    """
    let_threads_sleep()
    from edgecompile.compress import compress
    from edgecompile.plan import Request
    from edgecompile.progress import Bars

    with Bars(output.errors(), context.obj["quiet"]) as bars:
        done = compress(Request(model, (), **values), out, bars)
    before, after = done.origin.parameters, done.model.parameters
    if form == "json":
        output.dump({"folder": str(done.folder), "parameters": after, "before": before,
                     "passes": list(done.notes)})  # fmt: skip
    elif not context.obj["quiet"]:
        for note in done.notes:
            click.echo(note)
        click.echo(f"{done.folder}: {after:,} parameters of {before:,} ({after / before:.0%})")
