"""edgecompile explain: where a bundle lost its quality, and the change that mends it."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecompile.cli import cli, output
from edgecompile.errors import UnsupportedError, UsageError

PATH = click.Path(path_type=Path)


@cli.command("explain")
@click.argument("bundle", type=PATH)
@click.option("--source", help="The model it was built from; default: the shelf, then the cache.")
@click.option("--data", type=PATH, help="Held-out text (JSONL, CSV, text), or a folder.")
@click.option("--texts", default=64, show_default=True, type=click.IntRange(2, 4096),
              help="Held-out texts, pictures, pairs or sounds; of a decoder it is --tokens.")
@click.option("--tokens", default=1024, show_default=True, type=click.IntRange(16, 65536),
              help="Held-out tokens of a decoder, of answers, or to be guessed.")
@click.option("--evaluations", default=64, show_default=True, type=click.IntRange(2, 100_000),
              help="Runs of the model with layers restored; more rank more layers.")
@click.option("--limit", "limits", multiple=True, metavar="METRIC=VALUE",
              help="A stricter limit to propose a change for; may be given again.")
@click.option("--text", default="", help="Show attention and saliency of this text.")
@click.option("--with-text", is_flag=True, help="Let tokens of your own text be shown and kept.")
@click.option("--apply", "applied", is_flag=True,
              help="Make the change in ./models/NAME/recipe.toml.")
@output.FORMAT
@click.pass_context
def explain_command(
    context: click.Context, /, bundle: Path, limits: tuple[str, ...], applied: bool, form: str,
    **asked: Any,
) -> None:  # fmt: skip
    """Name the layers that lost BUNDLE its quality, and the change of the recipe that mends it.

    Writes BUNDLE.report/explain.json.
    """
    from edgecompile.explain import Options, explain, open_bundle
    from edgecompile.explain.apply import apply
    from edgecompile.explain.files import to_json, write
    from edgecompile.explain.table import show, show_change
    from edgecompile.progress import Bars

    options = Options(bundle, limits=dict(map(_limit, limits)), **asked)
    with Bars(output.errors(), context.obj["quiet"]) as bars:
        found = explain(open_bundle(options, bars), bars)
    write(found)
    if form == "text":
        show(found, output.console())
        show_change(found, output.console())
    if applied and found.failed != () and not found.change.bits and found.now.broken(found.limits):
        raise UnsupportedError(f"explain {bundle} --apply", f"no change: {found.change.why}")
    made = apply(found.subject, found.change.bits) if applied and found.change.bits else None
    if form == "json":
        extra = {"file": str(made.file), "command": made.command} if made else None
        output.dump({**to_json(found), "applied": extra})
    elif made:
        verb = "wrote" if made.created else "changed"
        click.echo(f"{verb} {made.file}; build it with:\n  {made.command}")
    elif found.change.bits:
        click.echo("--apply makes it in ./models/" + found.subject.manifest.name + "/recipe.toml")


def _limit(text: str) -> tuple[str, float]:
    """`kl_mean=0.1` as a pair; what is no metric is refused where limits are known."""
    from edgecompile.checks.limits import TABLE
    from edgecompile.config import nearest

    name, _, value = text.partition("=")
    if name not in TABLE:
        raise UsageError("--limit", f"{name!r} is no metric", nearest(name, TABLE))
    try:
        return name, float(value)
    except ValueError as error:
        raise UsageError("--limit", f"{value!r} is no number", f"{name}=0.1") from error
