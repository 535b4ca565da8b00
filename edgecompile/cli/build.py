"""edgecompile build, plan, check, summary."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgecompile.cli import cli, output
from edgecompile.cli.compare import rule_options
from edgecompile.emulate.levels import LEVELS
from edgecompile.tasks import EVERY, TASKS

DEFAULT_DATA = {
    "text": "default English prose", "picture": "scikit-image's pictures",
    "sound": "a made-up voice", "arrays": "the module's example inputs",
    "text and picture": "default English prose, scikit-image's pictures",
}  # fmt: skip

PATH = click.Path(path_type=Path)


def build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """MODEL and the options that `build` and `plan` share."""
    options = [
        click.argument("model"),
        click.option("--target", "targets", multiple=True, help="Device; may be given again."),
        click.option("-o", "--out", type=PATH, default=Path("dist"), show_default=True),
        click.option("--variant", default="", help="A named change of the recipe."),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                     help="Change one option, for example quantize.bits=4."),
        click.option("--data", type=PATH,
                     help="JSONL, CSV or text, or a folder of WAV files or pictures (with captions "
                          "in metadata.csv), to calibrate and check."),
        click.option("--task", default="",
                     type=click.Choice(["", *(task for task in EVERY if task != "module")]),
                     help="Where the model does not say it."),
        click.option("--recipe", type=PATH, help="A recipe for a MODEL that is a path."),
        click.option("--overwrite", is_flag=True, help="Replace an existing bundle."),
        click.option("--allow", multiple=True, metavar="NAME",
                     help="Let a named fault pass: no-gain, duplicates, not-run."),
        click.option("--lock", type=PATH, metavar="FILE",
                     help="What earlier builds chose by measuring; default: ./edgecompile.lock."),
        click.option("--relock", is_flag=True,
                     help="Measure the target's backends here and lock the fastest that passes."),
        output.FORMAT,
    ]  # fmt: skip

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        from edgecompile.plan import Request, plan

        fields = ("model", "targets", "out", "variant", "settings", "data", "task", "recipe",
                  "overwrite", "allow", "lock", "relock")  # fmt: skip
        request = Request(**{name: values.pop(name) for name in fields})
        return command(plan=plan(request), **values)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _number(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a price")
    return value


@cli.command("plan")
@click.option("--price-per-hour", type=click.FloatRange(min=0, max=1e6), metavar="PRICE",
              callback=_number,
              help="Of this machine, in any currency: shows what each build would cost.")
@build_options
def plan_command(plan: Any, form: str, price_per_hour: float | None) -> None:
    """Show what a build would do and take; reads no weights."""
    show_plan(plan, form, price_per_hour)


@cli.command("build")
@click.option("--dry-run", is_flag=True, help="Stop after the plan.")
@build_options
@click.pass_context
def build_command(context: click.Context, plan: Any, dry_run: bool, form: str) -> None:
    """Build MODEL for one or more targets, and prove each bundle against the source."""
    if dry_run:
        show_plan(plan, form)
        return
    from edgecompile import build
    from edgecompile.progress import Bars

    errors = output.errors()
    results = []
    with Bars(errors, context.obj["quiet"]) as bars:
        for result in build.build(plan, bars):
            results.append(result)
            if form == "text" and not context.obj["quiet"]:
                _tell(result)
    if form == "json":
        output.dump([_result_json(result) for result in results])
    build.exit_with(results)


def _tell(result: Any) -> None:
    from edgecompile.report.table import show

    stages = ", ".join(
        f"{name} {'reused' if name in result.reused else f'{seconds:.1f} s'}"
        for name, seconds in result.seconds.items()
    )
    output.console().print(f"[bold]{result.bundle}[/bold]  ({stages})")
    show(result.report, output.console())


def _result_json(result: Any) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle), "target": result.target, "seconds": result.seconds,
        "reused": list(result.reused), "report": result.report.to_json(),
    }  # fmt: skip


def show_plan(plan: Any, form: str, price_per_hour: float | None = None) -> None:
    """The plan's stages and estimates, one table a target; its cost where a price is given."""
    rows = [_plan_json(plan, one) for one in plan.targets]
    if price_per_hour is not None:
        for row in rows:
            row["cost"] = row["seconds"] / 3600 * price_per_hour
    if form == "json":
        output.dump({"model": plan.source.name, "task": plan.model.task, "targets": rows})
        return
    source = plan.source
    output.console().print(
        f"[bold]{source.name}[/bold]: {plan.model.architecture}, {plan.model.task}, "
        f"{plan.model.parameters:,} parameters, from {source.kind} {source.place}"
    )
    for note in plan.model.source.notes:
        output.console().print(f"  note: {note}")
    for row in rows:
        for backend, why in row["refused"].items():
            output.console().print(f"  not measured: {backend}: {why}")
        stages = [("load", source.kind)]
        stages += [(p["name"], f"{p['options']} -> {p['matched']} tensors") for p in row["passes"]]
        stages += [("export", ", ".join((row["backend"], *row["rivals"])))]
        stages += [("seal", row["output"]), ("check", row["data"])]
        output.console().print()
        output.table(f"target {row['target']}", ("stage", "what"), stages)
        output.console().print(
            f"bundle about {output.megabytes(row['size_bytes'])}, build memory about "
            f"{row['build_mib']:.0f} MiB, time about {row['seconds']:.0f} s, "
            f"memory in use about {row['run_mib']:.0f} MiB"
            + (f", with all {row['context_length']} tokens of context "
               f"{row['run_mib'] + row['cache_mib']:.0f} MiB" if row["cache_mib"] else "")
            + (f", cost about {row['cost']:.4f}" if "cost" in row else "")
        )


def _plan_json(plan: Any, one: Any) -> dict[str, Any]:
    default = DEFAULT_DATA[TASKS[plan.model.task].takes]
    return {
        "target": one.target.name, "backend": one.target.backend, "output": str(one.output),
        "passes": [
            {"name": c.name, "options": dict(c.options), "matched": len(one.schemes)}
            for c in one.passes
        ],
        "data": str(plan.request.data or plan.recipe.data.file or default),
        "size_bytes": one.estimate.size_bytes,
        "build_mib": one.estimate.build_mib, "run_mib": one.estimate.run_mib,
        "seconds": one.estimate.seconds, "cache_bytes": one.estimate.cache_bytes,
        "context_length": one.estimate.context_length, "cache_mib": one.estimate.cache_mib,
        "rivals": [rival.target.backend for rival in one.rivals], "refused": dict(one.refused),
    }  # fmt: skip


@cli.command("check")
@click.argument("bundle", type=PATH)
@click.option("--source", help="The model it was built from; default: the shelf, then the cache.")
@click.option("--data", type=PATH, help="Held-out text (JSONL, CSV, text), or a folder.")
@click.option("--recipe", type=PATH,
              help="A recipe with limits and metrics of your own; the bundle names no code to run.")
@click.option("--allow", multiple=True, metavar="NAME",
              help="Let a named fault pass: no-gain, duplicates, not-run, own-metrics.")
@click.option("--require-device", is_flag=True, help="Only a run on the real device counts.")
@click.option("--record", is_flag=True,
              help="Keep what it measured as ./models/NAME/baselines/TARGET.json.")
@click.option("--against", type=PATH, metavar="FILE-OR-BUNDLE",
              help="Fail on a regression against a recorded release, or an older bundle.")
@rule_options
@click.option("--on", "levels", multiple=True, type=click.Choice(list(LEVELS)),
              help="Compare on an emulated processor too; may be given again.")
@output.FORMAT
@click.pass_context
def check_command(
    context: click.Context, bundle: Path, source: str | None, data: Path | None,
    allow: tuple[str, ...], require_device: bool, levels: tuple[str, ...], form: str,
    record: bool, against: Path | None, rule: Any, recipe: Path | None,
) -> None:  # fmt: skip
    """Prove a sealed bundle again against its source; writes BUNDLE.report/."""
    from edgecompile.errors import LimitError
    from edgecompile.progress import Bars
    from edgecompile.recheck import Recheck, recheck
    from edgecompile.releases import release
    from edgecompile.report.table import show

    same = release.Request(source, data, allow, recipe)
    with Bars(output.errors(), context.obj["quiet"]) as bars:
        old = release.measured(against, same, bars) if against else None
        asked = Recheck(bundle, source, data, allow, require_device, levels, recipe)
        report = recheck(asked, bars)
    if old is not None:
        report = release.against(report, bundle, old, rule)
    if form == "json":
        output.dump(report.to_json())
    else:
        show(report, output.console())
    if not report.accepted:
        failed = [row.metric for row in report.rows if row.verdict in ("fail", "unproven")]
        raise LimitError(str(bundle), f"verdict {report.verdict} ({', '.join(failed)})", "pass")
    if record:
        click.echo(f"recorded {release.record(report, bundle)}", err=True)


@cli.command("summary")
@click.argument("folder", type=PATH, default=Path("dist"))
@output.FORMAT
def summary_command(folder: Path, form: str) -> None:
    """One table of all bundles in FOLDER: size, speed, quality, verdict."""
    from edgecompile.report.table import summary, summary_rows

    if form == "json":
        output.dump(summary_rows(folder))
    else:
        summary(folder, output.console())
