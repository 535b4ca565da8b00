"""edgecompile run, inspect, verify, bench: what one does with a finished bundle."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecompile.cli import cli, output
from edgecompile.errors import LimitError, UsageError

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))


@cli.command("run", context_settings={"ignore_unknown_options": True})
@BUNDLE
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_command(bundle: Path, arguments: tuple[str, ...]) -> None:
    """Run a bundle on TEXT: edgecompile run BUNDLE TEXT [--max-new-tokens N ...]."""
    from edgecompile.runtime._main import main as run_bundle

    raise SystemExit(run_bundle(bundle, list(arguments)))


@cli.command("inspect")
@BUNDLE
@output.FORMAT
def inspect_command(bundle: Path, form: str) -> None:
    """Show what a bundle holds: model, engine, tensors, passes, files."""
    from edgecompile.runtime.manifest import read_manifest

    data = read_manifest(bundle).data
    if form == "json":
        output.dump(data)
        return
    schemes: dict[str, int] = {}
    for tensor in data["tensors"]:
        schemes[tensor["scheme"]] = schemes.get(tensor["scheme"], 0) + 1
    total = sum(entry["bytes"] for entry in data["files"])
    rows = [
        ("model", f"{data['model']['name']}: {data['model']['task']}, "
                  f"{data['model']['architecture']}, {data['model']['parameters']:,} parameters"),
        ("source", f"{data['source']['kind']} {data['source']['digest'][:16]}"),
        ("licence", data["licence"]["id"]),
        ("target", data["target"] + (f" ({data['variant']})" if data["variant"] else "")),
        ("engine", f"{data['engine']['requires']}, tested with {data['engine']['tested']}"),
        ("tensors", ", ".join(f"{n} x {s}" for s, n in sorted(schemes.items())) or "floats only"),
        ("weights digest", data["weights_digest"]),
        ("size", f"{output.megabytes(total)} in {len(data['files'])} files"),
    ]  # fmt: skip
    rows += [("note", note) for note in data["source"]["notes"]]
    output.table("", ("", ""), rows)
    output.table("\npasses", ("pass", "changed ", "skipped ", "options"), [
        (p["name"], p["changed"], p["skipped"], p["options"]) for p in data["passes"]
    ])  # fmt: skip
    output.table("\nfiles", ("path", "bytes ", "sha256"), [
        (f["path"], f"{f['bytes']:,}", f["sha256"][:16]) for f in data["files"]
    ])  # fmt: skip


@cli.command("verify")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--same-weights", is_flag=True, help="Decode two bundles; compare codes and scales.")
@output.FORMAT
def verify_command(bundles: tuple[Path, ...], same_weights: bool, form: str) -> None:
    """Check every file's SHA-256; with --same-weights compare what two bundles' files hold."""
    from edgecompile.verify import compare, verify_files

    for bundle in bundles:
        verify_files(bundle)
    if not same_weights:
        rows = [{"bundle": str(bundle), "files": "verified"} for bundle in bundles]
        _say(rows, form, "\n".join(f"{bundle}: all files verified" for bundle in bundles))
        return
    if len(bundles) != 2:
        raise UsageError("verify --same-weights", f"{len(bundles)} bundles", "two")
    found = compare(*bundles)
    _say(found.to_json(), form, found.text())
    if found.differences:
        raise LimitError("verify --same-weights", found.differences[0], "the same codes and scales")


@cli.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(2, 1000))
@click.option("--tokens", default=64, show_default=True, type=click.IntRange(1, 8192),
              help="Tokens of the text (embedding) or to generate.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: physical cores.")
@output.FORMAT
def bench_command(
    bundles: tuple[Path, ...], rounds: int, tokens: int, threads: int | None, form: str
) -> None:
    """Measure bundles on this machine, interleaved: load, latency, tokens/s, memory."""
    from edgecompile.bench import bench, render

    errors = output.errors()
    from edgecompile.progress import Bars

    with Bars(errors) as bars:
        rows = bench(bundles, rounds, tokens, threads, bars)
    if form == "json":
        output.dump(rows)
    else:
        render(rows, output.console())


def _say(value: Any, form: str, text: str) -> None:
    if form == "json":
        output.dump(value)
    else:
        click.echo(text)
