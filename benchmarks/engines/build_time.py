"""One build for three targets beside the peers' three tools, one after the other.

    python benchmarks/engines/build_time.py MODEL --data TEXTS --work FOLDER [--set K=V] [--again]

Ours is `edgecompile build MODEL --target cpu --target mobile --target gguf` with an empty cache,
the checks included, then the same into another folder from the cache. The peers' tools check
nothing. Each result is kept below FOLDER: a stopped run goes on.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import held_out
import peers
import table
from ours import build
from rows import Row, Setup, slug

from edgecompile import host

RECIPES = Path(__file__).resolve().parents[2] / "models"
TARGETS = ("cpu", "mobile", "gguf")
ENCODER, DECODER = "embedding", "text-generation"
SHELF = {ENCODER: "all-minilm-l6-v2", DECODER: "smollm2-135m-instruct"}
TOOLS: dict[str, tuple[Row, ...]] = {
    ENCODER: (
        peers.OnnxRuntime(ENCODER, "int8"), peers.ExecuTorch(ENCODER, "int8"),
        peers.LlamaCpp(ENCODER, "Q8_0"),
    ),
    DECODER: (
        peers.Genai(DECODER, "int4"), peers.ExecuTorch(DECODER, "int4"),
        peers.LlamaCpp(DECODER, "Q4_0"),
    ),
}  # fmt: skip


def main() -> None:
    """Measure what is not done and print the table."""
    options = _options()
    folder = options.model.absolute()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    task = DECODER if "CausalLM" in config["architectures"][0] else ENCODER
    label = slug(" ".join([folder.name, *options.settings]))
    work = options.work.absolute() / "build-time" / label
    if options.again:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    calibration = (options.data / held_out.CALIBRATION).absolute()
    setup = Setup(folder, task, calibration, work, options.threads)
    cold = _kept(work / "cold.json", lambda: _build(setup, options.settings, "cold"))
    warm = _kept(work / "warm.json", lambda: _build(setup, options.settings, "warm"))
    tools = [_kept(work / f"{slug(row.name)}.json", lambda r=row: _tool(setup, r))  # type: ignore[misc]
             for row in TOOLS[task]]  # fmt: skip
    machine = f"{host.cpu_name()} ({host.cpu_level()}), {options.threads} threads, {folder.name}"
    text = f"{machine}\n\n{table.markdown(_lines(options.settings, cold, warm, tools))}"
    print(text)
    if options.into:
        table.put(options.into, f"build-time {label}", text)


def _lines(
    settings: list[str], cold: dict[str, Any], warm: dict[str, Any], tools: list[dict[str, Any]]
) -> list[list[str]]:
    said = f"`edgecompile build`, three targets{''.join(f', {one}' for one in settings)}"
    total = {kind: sum(tool[kind] for tool in tools) for kind in ("wall", "cpu")}
    lines = [["what", "s", "of the tools", "of the cold build", "processor s", "stages"]]
    for name, found in ((said, cold), ("the same from the cache", warm)):
        shares = (f"{found['wall'] / other['wall']:.1%}" for other in (total, cold))
        lines.append([
            name, f"{found['wall']:.1f}", *shares, f"{found['cpu']:.1f}", found["stages"]
        ])  # fmt: skip
    every = [*tools, {"name": "the three tools in sequence", **total}]
    return lines + [
        [one["name"], f"{one['wall']:.1f}", "", "", f"{one['cpu']:.1f}", ""] for one in every
    ]


def _kept(file: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A measurement, read from its file if it was made before."""
    if not file.exists():
        file.write_text(json.dumps(measure(), indent=1), "utf-8")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _build(setup: Setup, settings: list[str], name: str) -> dict[str, Any]:
    """One `edgecompile build` for all targets into an empty folder."""
    print(f"build, {name}", flush=True)
    cache, out = setup.work / "cache", setup.work / name
    if name == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    words = [*(f"--target={target}" for target in TARGETS), *(f"--set={one}" for one in settings)]
    took, results = build(setup, RECIPES / SHELF[setup.task] / "recipe.toml", out, cache, words)
    return {**asdict(took), "stages": "; ".join(map(_stages, results))}


def _stages(result: dict[str, Any]) -> str:
    verdict = result["report"]["verdict"]
    seconds = (f"{name} {value:.1f}" for name, value in result["seconds"].items())
    return f"{result['target']} ({verdict}): {', '.join(seconds)}"


def _tool(setup: Setup, row: Row) -> dict[str, Any]:
    """A peer's files, made anew."""
    print(row.name, flush=True)
    shutil.rmtree(setup.made(row), ignore_errors=True)
    shutil.rmtree(setup.work / "shared", ignore_errors=True)
    setup.made(row).mkdir(parents=True)
    took = row.make(setup).took
    shutil.rmtree(setup.made(row))
    return {"name": row.name, **asdict(took)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the three texts")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--into", type=Path, help="a document to put the table into")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
