"""Tokens a second of our loop beside each engine's own, on the same file, in the same minutes.

    python benchmarks/decode_speed.py BUNDLE... [--threads 2] [--new-tokens 128] [--rounds 9]

An `onnxruntime` bundle is also run by the Generator of onnxruntime-genai (which this package does
not install: `pip install onnxruntime-genai==0.18.0`), a `llama_cpp` bundle by
llama-cpp-python's Llama.generate. Runs alternate, so that a busy neighbour slows both alike; the
ratio is the median over rounds of ours to theirs in the same round.
"""
from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecompile.runtime import Session, load
from edgecompile.runtime.manifest import Manifest

Loop = Callable[[Sequence[int], int], Iterator[object]]  # (prompt ids, new tokens) -> one a token


@dataclass(frozen=True)
class Run:
    """One generation."""

    first_token_ms: float
    tokens_per_second: float


def time_run(loop: Loop, ids: Sequence[int], new_tokens: int) -> Run:
    """Time the first token and the rate of those after it."""
    start = time.perf_counter()
    tokens = loop(ids, new_tokens)
    next(tokens)
    first = time.perf_counter()
    count = sum(1 for _ in tokens)
    return Run((first - start) * 1000, count / (time.perf_counter() - first))


def ours(session: Session) -> Loop:
    """The loop that apps get."""
    return session.generate_ids


def genai(bundle: Path, manifest: Manifest, threads: int, folder: Path) -> Loop:
    """onnxruntime-genai's Generator on the bundle's file."""
    import onnxruntime_genai as og

    _write_genai_folder(bundle, manifest, threads, folder)
    model = og.Model(str(folder))

    def loop(ids: Sequence[int], new_tokens: int) -> Iterator[object]:
        parameters = og.GeneratorParams(model)
        length = len(ids) + new_tokens
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(list(ids))
        for _ in range(new_tokens):
            generator.generate_next_token()
            yield None

    return loop


def _write_genai_folder(bundle: Path, manifest: Manifest, threads: int, folder: Path) -> None:
    """Write genai's configuration beside a copy of the weights.

    genai cannot feed `last_tokens`: a constant makes the graph compute all logits of a prompt, as
    the builder's graphs do (one-token steps are the same).
    """
    import onnx
    from onnx import numpy_helper

    options = manifest.engine.options
    file = bundle / manifest.engine.file
    proto = onnx.load(str(file), load_external_data=False)
    if name := options.get("last_tokens"):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1 << 31]), name))
        kept = [port for port in proto.graph.input if port.name != name]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    onnx.save(proto, str(folder / "model.onnx"))
    for other in file.parent.iterdir():
        if other.name != file.name:
            shutil.copyfile(other, folder / other.name)  # ONNX Runtime refuses links
    (folder / "genai_config.json").write_text(json.dumps(_genai_config(manifest, proto, threads)))


def _genai_config(manifest: Manifest, proto: object, threads: int) -> dict[str, object]:
    options = manifest.engine.options
    context = manifest.generation.context_length if manifest.generation else 0
    shape = proto.graph.output[0].type.tensor_type.shape.dim  # type: ignore[attr-defined]
    past = options["past"].replace("{layer}", "%d")
    present = options["present"].replace("{layer}", "%d")
    decoder = {
        "session_options": {"provider_options": [], "intra_op_num_threads": threads},
        "filename": "model.onnx",
        "head_size": options["head_size"],
        "hidden_size": options["head_size"] * options["kv_heads"],
        "num_attention_heads": options["kv_heads"],
        "num_key_value_heads": options["kv_heads"],
        "num_hidden_layers": options["layers"],
        "inputs": {
            "input_ids": options["input_ids"], "attention_mask": options["attention_mask"],
            "past_key_names": past.replace("{part}", "key"),
            "past_value_names": past.replace("{part}", "value"),
        },
        "outputs": {
            "logits": options.get("logits", "logits"),
            "present_key_names": present.replace("{part}", "key"),
            "present_value_names": present.replace("{part}", "value"),
        },
    }
    # An end token that is never sampled: every run has the same length.
    model = {
        "type": "llama", "vocab_size": shape[-1].dim_value, "context_length": context,
        "bos_token_id": 0, "eos_token_id": shape[-1].dim_value - 1, "pad_token_id": 0,
        "decoder": decoder,
    }
    return {"model": model, "search": {"past_present_share_buffer": True, "max_length": context}}


def llama(bundle: Path, manifest: Manifest, threads: int) -> Loop:
    """llama-cpp-python's own generate on the bundle's file."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(bundle / manifest.engine.file), n_ctx=1024, n_threads=threads,
        n_threads_batch=threads, verbose=False,
    )

    def loop(ids: Sequence[int], new_tokens: int) -> Iterator[object]:
        model.reset()
        stream = model.generate(list(ids), temp=0.0)
        for _ in range(new_tokens):
            yield next(stream)

    return loop


def compare(bundle: Path, options: argparse.Namespace) -> None:
    """Print one bundle's table."""
    with load(bundle, threads=options.threads) as session, tempfile.TemporaryDirectory() as scratch:
        manifest = session.info
        if manifest.engine.name == "onnxruntime":
            other, name = genai(bundle, manifest, options.threads, Path(scratch)), "genai"
        else:
            other, name = llama(bundle, manifest, options.threads), "llama-cpp-python"
        loops = {"edgecompile": ours(session), name: other}
        ids = session.tokenize(["Once upon a time, in a country far away, " * 20])[0]
        runs = measure(loops, ids[: options.prompt_tokens], options)
    print(f"\n{bundle.name}: {manifest.engine.name}, {options.prompt_tokens} prompt tokens")
    print_table(runs)


def measure(
    loops: dict[str, Loop], ids: Sequence[int], options: argparse.Namespace
) -> dict[str, list[Run]]:
    """Warm each loop up, then alternate; who goes first changes every round."""
    runs: dict[str, list[Run]] = {name: [] for name in loops}
    for loop in loops.values():
        time_run(loop, ids, 8)
    for at in range(options.rounds):
        for name in sorted(loops, reverse=bool(at % 2)):
            runs[name].append(time_run(loops[name], ids, options.new_tokens))
    return runs


def print_table(runs: dict[str, list[Run]]) -> None:
    """Medians with the quartiles, and the ratio of the first loop to the second, round by round."""
    print(f"{'loop':18} {'tokens/s':>9} {'quartiles':>15} {'first ms':>9} {'quartiles':>15}")
    for name, results in runs.items():
        cells = []
        for values in (
            [run.tokens_per_second for run in results], [run.first_token_ms for run in results]
        ):
            low, middle, high = np.percentile(values, [25, 50, 75])
            cells.append(f"{middle:9.1f} {f'{low:.1f}-{high:.1f}':>15}")
        print(f"{name:18} {cells[0]} {cells[1]}")
    first, second = ([run.tokens_per_second for run in results] for results in runs.values())
    low, middle, high = np.percentile(np.divide(first, second), [25, 50, 75])
    print(f"ratio {middle:.3f} (quartiles {low:.3f}-{high:.3f}) over {len(first)} rounds")


def print_machine(threads: int) -> None:
    """Processor, versions and threads: numbers without them mean little."""
    names = ("onnxruntime", "onnxruntime-genai", "llama-cpp-python", "numpy")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    print(f"{cpu}; {threads} threads; Python {platform.python_version()}; {', '.join(versions)}")


def main() -> None:
    """Parse the command line and compare each bundle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=49)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print_machine(options.threads)
    for bundle in options.bundles:
        compare(bundle, options)


if __name__ == "__main__":
    main()
