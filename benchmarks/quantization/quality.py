"""What 4-bit weights lose, ours beside the public ones, each in the engine that would ship it.

    python benchmarks/quantization/quality.py MODEL --data TEXTS --work FOLDER [--rows ours,llama]

MODEL is a decoder that `edgecompile build` takes and that is off the grid it shipped on (see
finetune.py). One reference for all rows: the source's float32 logits on held-out windows of two
texts; calibration reads a third text only. Every row keeps what it made and its result below
FOLDER: a stopped run goes on, and `--again` makes rows anew. Prints a table in Markdown.
"""
from __future__ import annotations

import argparse
import json
import shutil
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import held_out
from genai import Genai
from held_out import Score, Source, Summary
from llama import LlamaCpp
from ours import ENGINES, Ours
from peers import LlmCompressor, Nncf, versions
from rows import Made, Row, Setup, remember, remembered, slug

from edgecompile import host, sources
from edgecompile.model import Model

BASE = ("quantize.bits=4", "quantize.embedding_bits=8", "quantize.overrides={}")
RTN = (*BASE, "quantize.method=rtn")
# One line a variant of ours: what the table calls it, and its --set options.
OURS: Mapping[str, tuple[str, ...]] = {
    "int4 rounded": (*RTN, "quantize.scale_search=false"),
    "int4 scale search": (*RTN, "quantize.scale_search=true"),
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
    chosen = [row for row in ROWS if _named(row, options.rows)]
    for row in chosen:
        if _named(row, options.again) and options.again:
            shutil.rmtree(setup.made(row), ignore_errors=True)
            (results / f"{slug(row.name)}.json").unlink(missing_ok=True)
    pending = [row for row in chosen if not (results / f"{slug(row.name)}.json").exists()]
    if pending:
        references = _references(model, options, work)
        for row in pending:
            try:
                measure(row, setup, references, results / f"{slug(row.name)}.json")
            except (Exception, SystemExit):  # a peer that breaks must not stop the others
                traceback.print_exc()
    text = f"{machine(options.threads, options.work)}\n\n{table(results)}"
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
        "digest": made.digest,
    }  # fmt: skip


def table(results: Path) -> str:
    """Markdown, in the order of ROWS; a row whose result is missing is left out."""
    found = [
        json.loads(file.read_text("utf-8"))
        for file in (results / f"{slug(row.name)}.json" for row in ROWS)
        if file.exists()
    ]
    domains = tuple(held_out.DOMAINS)
    head = ["row", "engine", "MB"]
    head += [f"{d}: {c}" for d in domains for c in ("KL", "perplexity", "top-1")]
    lines = [" | ".join(head), "|".join("---" for _ in (*head, "", ""))]
    lines[0] += " | same digest in ONNX and GGUF | what"
    for result in found:
        cells = [result["row"], result["engine"], f"{result['megabytes']:.1f}"]
        for domain in domains:
            cells += _cells(Summary.of([Score(**s) for s in result["domains"][domain]]))
        cells += [_same_digest(result, found), result["note"]]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _cells(summary: Summary) -> list[str]:
    """KL with its standard error, perplexity with the source's, agreement."""
    return [
        f"{summary.kl:.4f} ± {summary.kl_error:.4f}",
        f"{summary.perplexity:.2f} ({summary.source_perplexity:.2f})", f"{summary.top1:.3f}",
    ]  # fmt: skip


def _same_digest(result: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    """For ours: whether the other target's bundle of the same settings has the same codes."""
    if not result["digest"]:
        return ""
    label = result["row"].rpartition(",")[0]
    twins = {r["digest"] for r in found if r["row"].rpartition(",")[0] == label and r["digest"]}
    count = sum(r["row"].rpartition(",")[0] == label for r in found)
    return "" if count < len(ENGINES) else ("yes" if len(twins) == 1 else "NO")


def machine(threads: int, work: Path) -> str:
    """Processor, threads and the versions of every engine and peer."""
    names = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    for peer, wanted in (("nncf", ("nncf", "openvino")), ("gptq", ("llmcompressor",))):
        installed = versions(work, peer)
        names += [f"{name} {installed[name]}" for name in wanted if name in installed]
    return f"{host.cpu_name()} ({host.cpu_level()}), {threads} threads; {', '.join(names)}"


def _references(model: Model, options: argparse.Namespace, work: Path) -> dict[str, Source]:
    return {
        name: Source(model, held_out.windows(model, options.data / file, options.tokens), work)
        for name, file in held_out.DOMAINS.items()
    }


def _named(row: Row, names: str) -> bool:
    """Whether a row's name begins with one of the names, or none are given."""
    wanted = [name.strip() for name in names.split(";") if name.strip()]
    return not wanted or any(row.name.startswith(name) for name in wanted)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of the three texts")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", default="", help="beginnings of names, with ; between them")
    parser.add_argument("--again", default="", help="rows to make anew, likewise")
    parser.add_argument("--tokens", type=int, default=4096, help="a domain")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
