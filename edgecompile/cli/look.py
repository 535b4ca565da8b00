"""edgecompile targets, models, init, cache, doctor."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecompile.cli import cli, output

if TYPE_CHECKING:
    from edgecompile.target import Target


@cli.command("targets")
@output.FORMAT
def targets_command(form: str) -> None:
    """List the targets: ./targets first, then the shipped shelf."""
    from edgecompile import target

    found = [target.find(str(path)) for path in target.names().values()]
    found.sort(key=lambda one: one.name)
    if form == "json":
        keys = ("name", "backend", "description", "refused")
        output.dump([{key: getattr(one, key) for key in keys} for one in found])
        return
    rows = [
        (one.name, one.backend or "none", one.description if one.backend else _not_built(one))
        for one in found
    ]
    output.table("", ("target", "backend", "for"), rows)


def _not_built(one: Target) -> str:
    return f"{one.description}. Not built: {one.refused}"


@cli.command("models")
@output.FORMAT
def models_command(form: str) -> None:
    """List the models on the shelf: ./models first, then the shipped shelf."""
    from edgecompile import recipe

    found = [recipe.read(path) for path in recipe.names().values()]
    rows = [(m.name, m.task, m.source.pip or m.source.path, m.description) for m in found]
    if form == "json":
        names = ("name", "task", "weights", "description")
        output.dump([dict(zip(names, row, strict=True)) for row in rows])
        return
    output.table("", ("model", "task", "weights from", "what"), sorted(rows))


@cli.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Default: the folder's name.")
@click.option("--task", default="")
def init_command(folder: Path, name: str, task: str) -> None:
    """Write models/NAME/recipe.toml for a model folder, GGUF file or package.module:function."""
    from edgecompile.init import write_recipe

    path = write_recipe(str(folder), name, task)
    click.echo(f"wrote {path}; build it with: edgecompile build {path.parent.name} --target cpu")


@cli.group("cache")
def cache_group() -> None:
    """Finished stages, kept so that a build resumes."""


@cache_group.command("list")
@output.FORMAT
def cache_list_command(form: str) -> None:
    """List the stages in the cache, those used longest ago first."""
    from datetime import datetime

    from edgecompile import cache

    rows = [(path.name, size, used) for path, size, used in cache.entries()]
    if form == "json":
        output.dump([dict(zip(("stage", "bytes", "used"), row, strict=True)) for row in rows])
        return
    shown = [
        (name[:40], output.megabytes(size), datetime.fromtimestamp(used).isoformat(" ", "minutes"))
        for name, size, used in rows
    ]  # fmt: skip
    total = sum(size for _, size, _ in rows)
    output.table(str(cache.folder()), ("stage", "size ", "last used"), shown)
    click.echo(f"{len(rows)} stages, {output.megabytes(total)}")


@cache_group.command("prune")
@click.option("--max-size", default="0GB", help="Keep at most this much; 0GB keeps none.")
def cache_prune_command(max_size: str) -> None:
    """Remove the stages used longest ago, and what killed builds left."""
    from edgecompile import cache
    from edgecompile.config import parse_size

    stages = cache.folder() / "stages"
    abandoned = cache.remove_abandoned(stages) if stages.is_dir() else 0
    removed = cache.prune(parse_size(max_size, "--max-size"))
    click.echo(f"removed {len(removed)} stages and {abandoned} abandoned folders")


@cli.command("doctor")
@output.FORMAT
def doctor_command(form: str) -> None:
    """What is installed, what this CPU offers, which targets can be built and run here."""
    from edgecompile import doctor

    report = doctor.examine()
    if form == "json":
        output.dump(doctor.to_json(report))
    else:
        doctor.render(report, output.console())
