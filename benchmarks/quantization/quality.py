"""What 4-bit weights lose, ours beside the public ones, each in the engine that would ship it.

    python benchmarks/quantization/quality.py MODEL --data TEXTS --work FOLDER [--rows ours,llama]

MODEL is a decoder that `edgecompile build` takes and that is off the grid it shipped on (see
finetune.py). One reference for all rows: the source's float32 logits on held-out windows of two
texts; calibration reads a third text only. Every row keeps what it made and its result below
FOLDER: a stopped run goes on, and `--again` makes rows anew. Prints a table in Markdown.
Its own rows need `pip install onnxruntime-genai==0.18.0`, which this package does not install.
"""
from __future__ import annotations

import argparse
import shutil
import sys
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import environments
import held_out
import table
from genai import Genai
from held_out import Source, Summary
from llama import LlamaCpp
from ours import ENGINES, Ours
from peers import LlmCompressor, Nncf
from rows import Made, Row, Setup, remember, remembered, slug

from edgecompile import host, sources
from edgecompile.model import Model

BASE = ("quantize.bits=4", "quantize.embedding_bits=8", "quantize.overrides={}")
RTN = (*BASE, "quantize.method=rtn")
# One line a variant of ours: what the table calls it, and its --set options.
OURS: Mapping[str, tuple[str, ...]] = {
    "int4 rounded": (*RTN, "quantize.scale_search=false"),
    "int4 scale search": (*RTN, "quantize.scale_search=true"),
    "int4 GPTQ": (*BASE, "quantize.method=gptq"),
    "allocated, 5.77 bits": ("allocate_bits.bits_per_weight=5.77", "quantize.method=gptq"),
    "allocated, 5.41 bits": ("allocate_bits.bits_per_weight=5.41", "quantize.method=gptq"),
    "allocated, 5.15 bits": ("allocate_bits.bits_per_weight=5.15", "quantize.method=gptq"),
    "int4 AWQ + GPTQ": (*BASE, "quantize.method=awq"),
    "AWQ, allocated, 5.77 bits": ("allocate_bits.bits_per_weight=5.77", "quantize.method=awq"),
    "AWQ, allocated, 5.41 bits": ("allocate_bits.bits_per_weight=5.41", "quantize.method=awq"),
}
ROWS: tuple[Row, ...] = (
    *(Ours(label, settings, target) for label, settings in OURS.items() for target in ENGINES),
    *(LlamaCpp(kind, matrix) for kind in ("Q4_0", "Q4_K_S", "Q4_K_M") for matrix in (False, True)),
    LlamaCpp("F16"),
    *(Genai(algorithm) for algorithm in ("rtn", "k_quant", "k_quant_mixed")),
    Nncf(), Nncf(calibrated=True),
    LlmCompressor(),
)  # fmt: skip
LIBRARIES = ("torch", "onnxruntime", "onnxruntime-genai", "llama-cpp-python")


def main() -> None:
    """Make and measure the rows that are not done, then print all that are."""
    options = _options()
    model = sources.load(sources.resolve(options.model), lambda *_: None)
    work = options.work.resolve() / model.source.digest[:12]
    setup = Setup(model, options.data / held_out.CALIBRATION, work, options.threads)
    results = work / f"results-{options.tokens}"
    chosen = {row: results / f"{slug(row.name)}.json" for row in ROWS if _named(row, options.rows)}
    if options.again:
        for row in (row for row in chosen if _named(row, options.again)):
            shutil.rmtree(setup.made(row), ignore_errors=True)
            chosen[row].unlink(missing_ok=True)
    pending = {row: file for row, file in chosen.items() if not file.exists()}
    references = _references(model, options, work) if pending else {}
    for row, file in pending.items():
        try:
            measure(row, setup, references, file)
        except (Exception, SystemExit):  # a peer that breaks must not stop the others
            traceback.print_exc()
    found = table.read(results / f"{slug(row.name)}.json" for row in ROWS)
    parts = machine(options.threads, options.work), table.rows(found), table.against(found)
    text = "\n\n".join(parts)
    (results / "table.md").write_text(text + "\n", "utf-8")
    print(text)


def measure(row: Row, setup: Setup, references: Mapping[str, Source], file: Path) -> None:
    """Make the row if that is not done, compare it with the source, and keep the result."""
    made_file = setup.made(row) / "made.json"
    made = remembered(made_file)
    if made is None:
        shutil.rmtree(setup.made(row), ignore_errors=True)
        setup.made(row).mkdir(parents=True)
        print(f"make {row.name}", flush=True)
        made = remember(row.make(setup), made_file)
    scores = {}
    for domain, source in references.items():
        print(f"measure {row.name} on {domain}", flush=True)
        scores[domain] = held_out.compare(source, row.answer(setup, made, source.windows))
        print(f"  {Summary.of(scores[domain])}", flush=True)
    held_out.save(file, _about(row, made), scores)


def _about(row: Row, made: Made) -> dict[str, object]:
    return {
        "row": row.name, "engine": made.engine, "megabytes": made.megabytes, "note": made.note,
        "digest": made.digest, "settings": made.settings,
    }  # fmt: skip


def machine(threads: int, work: Path) -> str:
    """Processor, threads and the versions of every engine and peer."""
    names = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    for peer, wanted in (("nncf", ("nncf", "openvino")), ("gptq", ("llmcompressor",))):
        installed = environments.versions(work / "venvs", peer)
        names += [f"{name} {installed[name]}" for name in wanted if name in installed]
    return f"{host.cpu_name()} ({host.cpu_level()}), {threads} threads; {', '.join(names)}"


def _references(model: Model, options: argparse.Namespace, work: Path) -> dict[str, Source]:
    return {
        name: Source(model, held_out.windows(model, options.data / file, options.tokens), work)
        for name, file in held_out.DOMAINS.items()
    }


def _named(row: Row, names: str) -> bool:
    """Whether a row's name begins with one of the names, or none are given."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    return not wanted or any(row.name.startswith(name) for name in wanted)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of the three texts")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", default="", help="beginnings of names, commas between them")
    parser.add_argument("--again", default="", help="rows to make anew, likewise")
    parser.add_argument("--tokens", type=int, default=4096, help="a domain")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
