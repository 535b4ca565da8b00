"""Every engine that could run a model on a CPU, ours beside the peers' own tools.

    python benchmarks/engines/compare.py MODEL... --data TEXTS --work FOLDER [--rows edgecompile]
    python benchmarks/engines/compare.py MODEL... --data TEXTS --work FOLDER --speed-only --fresh

MODEL is a Hugging Face folder of an encoder or a decoder. Each row is made by its tool, in an
environment that this script makes where the tool needs one, then compared with the source in
torch float32, and timed in rounds over all rows, one fresh process a row and round. What is
done is kept below FOLDER: a stopped run goes on, `--again` makes rows anew, `--fresh` measures
all speeds anew. Prints a table a model in Markdown; `--into docs/engines.md` puts it there.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import traceback
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import held_out
import peers
import quality
import table
from client import Client
from ours import Ours
from rows import Made, Row, Setup, remember, remembered, slug
from speed import Speeds

from edgecompile import host

RECIPES = Path(__file__).resolve().parents[2] / "models"
BACKENDS = (  # target, backend, whether its file names the backend
    ("cpu", "onnxruntime", False), ("cpu", "openvino", False), ("cpu", "executorch", False),
    ("mobile", "executorch", True), ("gguf", "gguf", True),
)  # fmt: skip
ENCODER, DECODER = "embedding", "text-generation"


def _ours(task: str, recipe: str, variants: dict[str, str], skip: set[str]) -> list[Row]:
    """A row for each backend and variant; `skip` are precision and backend that do not go."""
    return [
        Ours(task, target, backend, label, RECIPES / recipe / "recipe.toml", variant, fixed)
        for label, variant in variants.items()
        for target, backend, fixed in BACKENDS
        if f"{label} {backend}" not in skip
    ]


ROWS: tuple[Row, ...] = (
    *_ours(ENCODER, "all-minilm-l6-v2", {"int8": "", "w8a8": "w8a8", "int4": "int4"},
           {"w8a8 gguf", "w8a8 executorch"}),
    peers.OnnxRuntime(ENCODER, "float32"), peers.OnnxRuntime(ENCODER, "int8"),
    peers.OpenVino(ENCODER, "float32"), peers.OpenVino(ENCODER, "int8"),
    peers.OpenVino(ENCODER, "w8a8"),
    peers.ExecuTorch(ENCODER, "int8"), peers.ExecuTorch(ENCODER, "float32"),
    peers.LiteRt(ENCODER, "int8"), peers.LiteRt(ENCODER, "float32"),
    peers.LlamaCpp(ENCODER, "Q8_0"), peers.LlamaCpp(ENCODER, "Q4_0"),
    peers.Torch(ENCODER),
    *_ours(DECODER, "smollm2-135m-instruct", {"int4": "", "int8": "int8"}, set()),
    peers.Genai(DECODER, "int4"), peers.Genai(DECODER, "int4", engine="onnxruntime"),
    peers.Genai(DECODER, "int4 and int8", algorithm="k_quant_mixed"),
    peers.Genai(DECODER, "int8"), peers.Genai(DECODER, "int8", engine="onnxruntime"),
    peers.OpenVino(DECODER, "int4"), peers.OpenVino(DECODER, "int8"),
    peers.ExecuTorch(DECODER, "int4"), peers.ExecuTorch(DECODER, "int8"),
    peers.LlamaCpp(DECODER, "Q4_0"), peers.LlamaCpp(DECODER, "Q4_K_M"),
    peers.LlamaCpp(DECODER, "Q8_0"),
    peers.Torch(DECODER),
)  # fmt: skip


def main() -> None:
    """Make, measure, print, model after model."""
    options = _options()
    machine = f"{host.cpu_name()} ({host.cpu_level()}), {options.threads} threads"
    for folder in options.models:
        text = f"{machine}; {compare(folder.absolute(), options)}"
        print(text)
        if options.into:
            table.put(options.into, folder.name, text)


def compare(folder: Path, options: argparse.Namespace) -> str:
    """One model's table."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    task = DECODER if "CausalLM" in config["architectures"][0] else ENCODER
    work = options.work.resolve() / folder.name
    work.mkdir(parents=True, exist_ok=True)
    calibration = (options.data / held_out.CALIBRATION).resolve()
    setup = Setup(folder, task, calibration, work, options.threads)
    chosen = [row for row in ROWS if row.task == task and _named(row, options.rows)]
    for row in (row for row in chosen if options.again and _named(row, options.again)):
        shutil.rmtree(setup.made(row), ignore_errors=True)
        _result(setup, row).unlink(missing_ok=True)
    texts = quality.Texts(setup, options.data, options.tokens)
    if not options.speed_only:
        _prepare(setup, chosen, texts)
    made = {row: found for row in chosen if (found := remembered(setup.made(row) / "made.json"))}
    speeds = Speeds(work / f"speed-{options.threads}.json", [r.name for r in made], options.fresh)
    speeds.measure(texts, made, options.rounds)
    qualities = {row: quality.read(_result(setup, row)) for row in made}
    low, high = speeds.load
    said = ", ".join(f"{name} {version}" for name, version in speeds.versions().items())
    rounds = f"{speeds.rounds} rounds, load average {low:.1f} to {high:.1f}"
    return f"{said}; {rounds}\n\n{table.render(task, made, speeds, qualities)}"


def _prepare(setup: Setup, rows: list[Row], texts: quality.Texts) -> None:
    """Make and compare with the source what is not done."""
    for row in rows:
        try:
            made = _make(setup, row)
            if not _result(setup, row).exists():
                print(f"compare {row.name}", flush=True)
                with Client(row, made, setup.threads) as client:
                    quality.measure(texts, client, _result(setup, row))
        except (Exception, SystemExit):  # a peer that breaks must not stop the others
            traceback.print_exc()


def _make(setup: Setup, row: Row) -> Made:
    file = setup.made(row) / "made.json"
    made = remembered(file)
    if made is None:
        print(f"make {row.name}", flush=True)
        shutil.rmtree(setup.made(row), ignore_errors=True)
        setup.made(row).mkdir(parents=True)
        made = remember(row.make(setup), file)
    return made


def _result(setup: Setup, row: Row) -> Path:
    return setup.work / "quality" / f"{slug(row.name)}.json"


def _named(row: Row, names: str) -> bool:
    """Whether a row's name begins with one of the names, or none are given."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    return not wanted or any(row.name.startswith(name) for name in wanted)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the three texts")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", default="", help="beginnings of names, commas between them")
    parser.add_argument("--again", default="", help="rows to make anew, likewise")
    parser.add_argument("--speed-only", action="store_true", help="make and compare nothing")
    parser.add_argument("--fresh", action="store_true", help="measure all speeds anew")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4096, help="of each domain, for KL")
    parser.add_argument("--into", type=Path, help="a document to put the tables into")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
