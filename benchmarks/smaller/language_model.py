"""A small decoder fine-tuned, made shallower and taught again, beside quantization alone.

    python benchmarks/smaller/language_model.py --data DIR --work FOLDER [--parts finetune depth]

DIR holds text/python-library.txt, which alone is learned from; python-tutorial.txt (its domain) and
drama.txt (far from it) are measured. What is chosen by measuring (which layers go) is chosen on
tuning.txt, a part of the library's paragraphs that nothing learns from. FOLDER keeps every model
and number: a stopped run goes on. Prints the machine, the versions and two tables in Markdown.
"""
from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too
sys.path.append(str(Path(__file__).resolve().parents[1] / "common"))

import measured
import options as common

TASK = "text-generation"
BATCH, LENGTH = 4, 256  # windows a step, tokens a window
SHARE = 0.012  # of the library's paragraphs are the tuning split, by a hash of their text
FULL = ("train.lr=1e-4",)
LORA = ("train.lr=1e-3", "train.lora.rank=16", "train.lora.alpha=32")
DISTILL = ("distill.soft=1", "distill.task=0.5", "distill.cache_mb=0", f"distill.length={LENGTH}")
LAYERS, WAYS = 24, ("influence", "kl")
CHOOSING = {"influence": 64, "kl": 2}  # windows of 128 tokens: kl runs them 165 times
INT8 = ("quantize.method=rtn", "quantize.bits=8", "quantize.embedding_bits=8",
        "quantize.overrides={}")  # fmt: skip
MIXED = ("quantize.method=rtn", "quantize.bits=4", "allocate_bits.calibrated=false",
         "allocate_bits.texts=16", "quantize.embedding_bits=8",
         "quantize.overrides={}")  # fmt: skip
INT4 = ("quantize.method=gptq", "quantize.bits=4", "quantize.embedding_bits=8",
        "quantize.overrides={}")  # fmt: skip
KINDS = ("int8", "same", "int4")  # of quantized rows; `same`: 24 in int8, and 30 in that size


@dataclass(frozen=True)
class Run:
    """The options, and where things are."""

    data: Path
    work: Path
    model: str
    tokens: int
    lora_tokens: int
    recovery: int
    measured: int
    kinds: list[str]
    threads: int

    @property
    def training(self) -> Path:
        """What is learned from."""
        return self.work / "train.txt"

    @property
    def tuning(self) -> Path:
        """What choices are made by."""
        return self.work / "tuning.txt"

    @property
    def calibration(self) -> str:
        """The setting that gives passes the training text, and leaves tuning.txt to checks."""
        return f"data.calibration={self.work / 'mixed.txt'}"

    def perplexities(self, name: str, place: str) -> dict[str, float]:
        """Of the tuning split and both texts."""
        files = measured.texts(self.data, self.tuning)
        kept = self.work / f"{name}-{self.measured}.json"
        return measured.perplexities(place, files, self.measured, kept)


def main() -> None:
    """Make what is not there yet, measure it, print the tables."""
    parser = common.parser(__doc__, "smollm2-135m-instruct")
    parser.add_argument("--parts", nargs="+", default=["finetune", "depth"])
    parser.add_argument("--tokens", type=int, default=102_400, help="to fine-tune on")
    parser.add_argument("--lora-tokens", type=int, default=0, help="0: as many")
    parser.add_argument("--recovery", type=int, default=204_800, help="to distill on")
    parser.add_argument("--measured", type=int, default=8192, help="tokens a text")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    options = vars(common.given(parser))
    parts, run = options.pop("parts"), Run(**options)
    run.work.mkdir(parents=True, exist_ok=True)
    print(machine(run), flush=True)
    split(run)
    for part in parts:
        print({"finetune": finetune, "depth": depth}[part](run), flush=True)


def machine(run: Run) -> str:
    """Where the numbers come from."""
    return f"{common.machine()}\n{run.threads} threads to train and to generate"


def split(run: Run) -> None:
    """train.txt and tuning.txt: the library's paragraphs, by a hash of their text.

    mixed.txt has the former in the order of a hash: its start is from all over the library.
    """
    from edgecompile.train.data import Keys, is_held_out, read_examples

    rows = read_examples(run.data / "text" / "python-library.txt", Keys())
    for name, held in (("train", False), ("tuning", True)):
        texts = [row.text for row in rows if is_held_out(row.key, SHARE) == held]
        (run.work / f"{name}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        if not held:
            texts.sort(key=lambda text: hashlib.sha256(text.encode()).hexdigest())
            (run.work / "mixed.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


# -- fine-tuning ---------------------------------------------------------------------------------


def finetune(run: Run) -> str:
    """The source, all weights tuned, and LoRA: perplexity on both texts."""
    places = {"source": run.model, "full": trained(run, "full", FULL, run.tokens)}
    places["lora"] = trained(run, "lora", LORA, run.lora_tokens or run.tokens)
    lines = [["", "tuning", "tutorial (domain)", "drama (far)", "steps, tokens/s (median)"]]
    for name, place in places.items():
        found = run.perplexities(name, place)
        values = [f"{found[text]:.2f}" for text in ("tuning", "tutorial", "drama")]
        lines.append([name, *values, rate(run.work / f"{name}.train" / "metrics.jsonl")])
    return markdown(lines)


def trained(run: Run, name: str, settings: Sequence[str], tokens: int) -> str:
    """The folder of a model tuned on so many tokens of the library."""
    from edgecompile.train.run import Request, train

    out = run.work / name
    common = (
        f"train.steps={tokens // (BATCH * LENGTH)}", f"train.batch={BATCH}",
        f"train.length={LENGTH}", "train.schedule=cosine", f"train.threads={run.threads}",
        "train.save_every=10",
    )  # fmt: skip
    if not out.is_dir():
        train(
            Request(run.model, out, run.training, run.tuning, TASK,
                    settings=(*common, *settings), resume=True),
            lambda _row: None, lambda *_: None,
        )  # fmt: skip
    return str(out)


def rate(metrics: Path) -> str:
    """Steps, and the median of their tokens a second."""
    if not metrics.is_file():
        return ""
    rows = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    return f"{len(rows)}, {median([row['tokens_per_second'] for row in rows]):.0f}"


# -- depth ---------------------------------------------------------------------------------------


def depth(run: Run) -> str:
    """Layers dropped from the tuned model, before and after recovery, beside quantization alone."""
    full = trained(run, "full", FULL, run.tokens)
    pruned = {way: shallower(run, full, way) for way in WAYS}
    best = min(WAYS, key=lambda way: run.perplexities(f"depth-{way}", pruned[way])["tuning"])
    again = recovered(run, full, pruned[best], best)
    folders = {"30 layers": full, **{f"24 by {way}": pruned[way] for way in WAYS},
               f"24 by {best}, distilled": again}  # fmt: skip
    lines = [["", "weights", "MB", "tuning", "tutorial", "drama", "ORT tokens/s", "llama.cpp"]]
    kept = {full: "full", again: "recovered", **{pruned[way]: f"depth-{way}" for way in WAYS}}
    for name, place in folders.items():
        lines.append(row(run, name, "float32", Path(place), kept[place], place))
    return markdown([*lines, *(quantized(run, full, again) if run.kinds else [])])


def shallower(run: Run, full: str, way: str) -> str:
    """LAYERS of the tuned model's blocks."""
    settings = ("prune.method=depth", f"prune.layers={LAYERS}", f"prune.by={way}",
                f"prune.texts={CHOOSING[way]}", "prune.length=128")  # fmt: skip
    return compressed(run, full, f"depth-{way}", settings)


def recovered(run: Run, full: str, pruned: str, way: str) -> str:
    """The shallow model taught by the tuned one on `recovery` tokens, each seen once."""
    rows = run.recovery // LENGTH
    settings = (
        *DISTILL, f"distill.teacher={full}", f"distill.texts={rows}", "distill.train.epochs=1",
        f"distill.train.batch={BATCH}", "distill.train.schedule=cosine",
        f"distill.train.threads={run.threads}", "distill.train.save_every=10",
    )  # fmt: skip
    return compressed(run, pruned, f"recovered-{way}", settings)


def compressed(run: Run, source: str, name: str, settings: Sequence[str]) -> str:
    """`edgecompile compress`, once."""
    from edgecompile.compress import compress
    from edgecompile.plan import Request

    out = run.work / name
    if not out.is_dir():
        request = Request(source, (), settings=(*settings, run.calibration), task=TASK,
                          data=run.tuning)  # fmt: skip
        done = compress(request, out, lambda *_: None)
        print("\n".join(done.notes), flush=True)
    return str(out)


def quantized(run: Run, full: str, again: str) -> list[list[str]]:
    """Rows of both depths on the grid; 30 layers at the bits that give the size of 24 in int8."""
    shallow, deep = parameters(again), parameters(full)
    bits = f"allocate_bits.bits_per_weight={8.03 * shallow / deep:.2f}"  # int8 and its scales
    every = {
        ("int8", "30 layers, int8"): (full, INT8),
        ("same", "24 distilled, int8"): (again, INT8),
        ("same", "30 layers, 4 and 8 bits in that size"): (full, (*MIXED, bits)),
        ("int4", "30 layers, int4"): (full, INT4),
        ("int4", "24 distilled, int4"): (again, INT4),
    }
    rows = {name: what for (kind, name), what in every.items() if kind in run.kinds}
    names = {row: f"{Path(place).name}-{'-'.join(row.split(', ')[1].split())}"
             for row, (place, _) in rows.items()}  # fmt: skip
    bundles = {
        target: {row: built(run, names[row], *what, target) for row, what in rows.items()}
        for target in ("cpu", "gguf")
    }
    speeds = {target: measured.speeds(found, run.threads) for target, found in bundles.items()}
    lines = []
    for name, path in bundles["cpu"].items():
        fast = [f"{speeds[t][name][0]:.1f} ({speeds[t][name][1]:.1f})" for t in ("cpu", "gguf")]
        found = row(run, name, "grid", path, names[name], str(path))
        gguf = measured.megabytes(bundles["gguf"][name])
        lines.append([*found[:2], f"{found[2]}, GGUF {gguf:.1f}", *found[3:6], *fast])
    return lines


def parameters(folder: str) -> int:
    """Of a model folder."""
    from edgecompile import sources

    return sources.describe(sources.resolve(folder, task=TASK)).parameters


def built(run: Run, name: str, source: str, settings: Sequence[str], target: str) -> Path:
    """A bundle, sealed or rejected: a limit that breaks must not hide what it measures."""
    from edgecompile.build import build
    from edgecompile.plan import Request, plan

    place = run.work / "bundles" / name / target
    if not place.is_symlink():
        request = Request(
            source, (target,), place.parent, overwrite=True, task=TASK, data=run.tuning,
            settings=(*settings, run.calibration, "check.tokens=512"),
        )  # fmt: skip
        (result,) = build(plan(request), lambda *_: None)
        (place.parent / f"{target}.from").write_text(source, "utf-8")
        place.symlink_to(result.bundle.name)
        print(f"{name}, {target}: verdict {result.report.verdict}", flush=True)
    return place


def row(run: Run, name: str, kind: str, place: Path, kept: str, shown: str) -> list[str]:
    """A line without speeds."""
    found = run.perplexities(kept, shown)
    values = [f"{found[text]:.2f}" for text in ("tuning", "tutorial", "drama")]
    return [name, kind, f"{measured.megabytes(place):.1f}", *values, "", ""]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the head."""
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


if __name__ == "__main__":
    main()
