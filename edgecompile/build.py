"""Run a plan: load, the passes once, then for each target export, seal, check."""
from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile import bundle, cache, checked, codes, estimate, golden, lock, sources
from edgecompile.backends import Export, Port
from edgecompile.check import check_bundle
from edgecompile.checks import Limits, own
from edgecompile.choose import Candidate, fastest, locked
from edgecompile.errors import LimitError, MissingLibraryError, UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import (
    CHECKPOINT,
    LayerReport,
    Pass,
    PassResult,
    Progress,
    Reshapes,
    Work,
)
from edgecompile.passes.teaching import TeachingOptions
from edgecompile.plan import Plan, TargetPlan, files_of, make_pass
from edgecompile.recipe import LEARNING, PassChoice, Recipe
from edgecompile.report import CheckReport
from edgecompile.report.files import folder_of, write_reports
from edgecompile.runtime.manifest import read_manifest
from edgecompile.sources.huggingface import sha256
from edgecompile.text import Corpus, corpus_for

SOURCES = "edgecompile."
LAYERS, BITS = "layers.json", "bits.json"  # of a pass's stage, beside its codes
SHARED_MODULES = ("numerics.schemes", "numerics.swap", "numerics.linears", "model", "modules",
                  "architectures", "structure", "reference", "codes", "sources.tied")  # fmt: skip


@dataclass(frozen=True)
class BuildResult:
    """One target's bundle (or `<name>.rejected`), its report, and how long each stage took."""

    target: str
    bundle: Path
    report: CheckReport
    seconds: dict[str, float] = field(default_factory=dict)
    reused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the verdict is pass."""
        return self.report.accepted


def build(plan: Plan, progress: Progress) -> Iterator[BuildResult]:
    """Build target after target; a target that fails its check does not stop the others."""
    clock = _Clock()
    model = sources.load(plan.source, progress)
    clock.stop("load")
    for one in plan.targets:
        yield _build_target(plan, one, model, progress, clock.copy())


def _build_target(
    plan: Plan, one: TargetPlan, model: Model, progress: Progress, clock: _Clock
) -> BuildResult:
    """Seal and check the target's bundle; with --relock also its rivals', and keep the fastest."""
    one.output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as folders:

        def candidate(rival: TargetPlan) -> Candidate:
            staging = folders.enter_context(
                cache.private_folder(one.output.parent, one.output.name)
            )
            report = _seal_and_check(plan, rival, model, staging, progress, clock)
            return Candidate(rival.target.backend, staging, report)

        if not plan.request.relock:
            return _publish(plan, one, candidate(one), clock)
        candidates, refused = [], dict(one.refused)
        for rival in (one, *one.rivals):
            try:
                candidates.append(candidate(rival))
            except (UnsupportedError, MissingLibraryError) as error:
                refused[rival.target.backend] = str(error)
        chosen, ranking = fastest(candidates, refused, progress)
        clock.stop("measure")
        if chosen.report.verdict == "pass":
            lock.write(plan.request.lock_file, one.output.name, locked(chosen, ranking))
        report = dataclasses.replace(chosen.report, ranking=ranking)
        return _publish(plan, one, dataclasses.replace(chosen, report=report), clock)


def _seal_and_check(
    plan: Plan, one: TargetPlan, model: Model, staging: Path, progress: Progress, clock: _Clock
) -> CheckReport:
    """Fill `staging` with the whole bundle and prove it."""
    request = plan.request
    metrics = own.of_recipe(plan.recipe)
    results, key = _run_passes(plan, one, model, progress, clock)
    model = results[-1][1].model if results else model
    written, export = _export(one, model, key, progress, clock)
    contents = bundle.Contents(
        model, one.target, request.variant, export, tuple(results), _text_read(plan, one),
        {metric.name: metric.place for metric in metrics},
    )
    bundle.assemble(contents, written, staging)
    golden.add(staging)
    clock.stop("seal")
    limits = Limits.of(plan.recipe.check, one.target.budget, request.allow, metrics)
    corpus = corpus_of(plan.recipe, request.data, model.task)

    def check() -> CheckReport:
        return check_bundle(staging, model, corpus, limits, progress)

    report, reused = checked.reuse(read_manifest(staging), model, corpus, limits, check)
    clock.stop("check", reused)
    return report


def _publish(plan: Plan, one: TargetPlan, done: Candidate, clock: _Clock) -> BuildResult:
    """Give a sealed bundle its name, or that of a rejected one, and write its report."""
    final = one.output if done.report.accepted else rejected(one.output)
    bundle.seal(done.folder, final, plan.request.overwrite or final != one.output)
    report = dataclasses.replace(done.report, bundle=final.name)
    write_reports(report, folder_of(final))
    if final == one.output:
        discard(rejected(final))
    return BuildResult(one.target.name, final, report, clock.seconds, tuple(clock.reused))


def run_passes(plan: Plan, one: TargetPlan, model: Model, progress: Progress) -> Model:
    """The model after a target's passes, from the cache or by running them."""
    results, _ = _run_passes(plan, one, model, progress, _Clock())
    return results[-1][1].model if results else model


def _run_passes(
    plan: Plan, one: TargetPlan, model: Model, progress: Progress, clock: _Clock
) -> tuple[list[tuple[PassChoice, PassResult]], str]:
    """Each pass with its result, and the key of what they made."""
    results: list[tuple[PassChoice, PassResult]] = []
    key = model.source.digest
    for choice in one.passes:
        result, key = _run_pass(choice, _Stage(plan, one, model, key), progress, clock)
        model = result.model
        results.append((_recorded(choice), result))
    return results, key


def _recorded(choice: PassChoice) -> PassChoice:
    """The choice as a manifest names it: files without the folders that they were in."""
    files = getattr(make_pass(choice), "reads_files", ())
    named = {key: Path(value).name if key in files and value else value
             for key, value in choice.options.items()}  # fmt: skip
    return dataclasses.replace(choice, options=named)


def _text_read(plan: Plan, one: TargetPlan) -> dict[str, Any] | None:
    """The corpus and the digests of those of its parts that shaped the weights."""
    read = sorted({part for choice in one.passes for part in make_pass(choice).reads_text})
    if not read or plan.model.task == "module":
        return None
    corpus = corpus_of(plan.recipe, plan.request.data, plan.model.task)
    return {"name": corpus.name, **{part: corpus.digests[part] for part in read}}


def rejected(output: Path) -> Path:
    """Where a bundle is kept that did not pass its check."""
    return output.with_name(f"{output.name}.rejected")


def discard(folder: Path) -> None:
    """Remove an older rejected bundle and its report, now that the build passes."""
    for path in (folder, folder_of(folder)):
        shutil.rmtree(path, ignore_errors=True)


def corpus_of(recipe: Recipe, data: Path | None, task: str) -> Corpus:
    """By --data, else by the recipe (beside its file), else what every installation has."""
    spec = recipe.data
    if spec.calibration:
        beside = str(recipe.folder / spec.calibration)
        spec = dataclasses.replace(spec, calibration=beside)
    return corpus_for(spec, data or (recipe.folder / spec.file if spec.file else None), task)


@dataclass(frozen=True)
class _Stage:
    """What a pass of one target starts from."""

    plan: Plan
    target: TargetPlan
    model: Model
    key: str

    def corpus(self) -> Corpus:
        return corpus_of(self.plan.recipe, self.plan.request.data, self.model.task)

    def size(self, schemes: Mapping[str, Scheme]) -> int:
        return estimate.estimate(self.model, self.target.backend, schemes).size_bytes


def _run_pass(
    choice: PassChoice, stage: _Stage, progress: Progress, clock: _Clock
) -> tuple[PassResult, str]:
    """A pass from the cache or by running it; returns its result and the next stage's key."""
    chosen = make_pass(choice)
    text = {name: stage.corpus().digests[name] for name in chosen.reads_text}
    text |= {path.name: sha256(path) for path in files_of(choice, stage.plan.recipe)}

    def key_of(name: str, options: Mapping[str, Any], target: str) -> str:
        return cache.key(
            name, modules=_pass_modules(type(chosen)), model=stage.key, task=stage.model.task,
            options=dict(options), text=text, target=target,
        )  # fmt: skip

    def part(name: str, options: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        return cache.resumable_stage(name, key_of(name, options, ""), make)[0]

    key = key_of(
        choice.name, choice.options, stage.target.target.name if chosen.reads_target else ""
    )

    def work(folder: Path) -> None:
        beside = stage.plan.recipe.folder
        given = Work(progress, folder, stage.corpus, stage.size, part, lambda name: beside / name)
        result = chosen(stage.model, given)
        (folder / BITS).write_text(json.dumps(dict(result.model.bits)), encoding="utf-8")
        layers = [dataclasses.asdict(layer) for layer in result.layers]
        (folder / LAYERS).write_text(json.dumps(layers), encoding="utf-8")

    folder, reused = cache.resumable_stage(choice.name, key, work)
    clock.stop(choice.stage, reused)
    return _finished(stage.model, folder, choice.stage), key


def _finished(model: Model, folder: Path, stage: str) -> PassResult:
    """A pass's result from its stage's folder."""
    rows = json.loads((folder / LAYERS).read_text(encoding="utf-8"))
    layers = tuple(LayerReport(**row) for row in rows)
    if (folder / CHECKPOINT).is_dir():
        from edgecompile.pruning.checkpoint import taken_up

        return PassResult(taken_up(model, folder, stage), layers)
    quantized, replaced = codes.load(folder)
    bits = json.loads((folder / BITS).read_text(encoding="utf-8"))
    changed = dataclasses.replace(
        model, quantized=quantized, replaced={**model.replaced, **replaced}, bits=bits,
        activations={**model.activations, **codes.ranges(folder)},
        importance={**model.importance, **codes.importance(folder)},
    )  # fmt: skip
    if stage == LEARNING:
        changed = dataclasses.replace(changed, rounded=codes.rounded(model))
    return PassResult(changed, layers)


def _pass_modules(chosen: type[Pass]) -> tuple[str, ...]:
    """A pass's own module, those of the passes that it extends or shares, and all arithmetic."""
    folder = Path(__file__).parent
    numerics = (f"numerics.{file.stem}" for file in folder.glob("numerics/*.py"))
    calibration = (f"calibration.{file.stem}" for file in folder.glob("calibration/*.py"))
    pruning = (f"pruning.{file.stem}" for file in folder.glob("pruning/*.py"))
    reshaping = pruning if issubclass(chosen, Reshapes) else ()
    trained = (f.relative_to(folder).with_suffix("").parts for f in folder.glob("train/**/*.py"))
    training = map(".".join, trained) if issubclass(chosen, TeachingOptions) else ()
    shared = ("passes.grid", *numerics, *calibration, *reshaping, *training, *SHARED_MODULES)
    own = {kind.__module__ for kind in chosen.__mro__ if kind.__module__.startswith(SOURCES)}
    names = own | {SOURCES + module for module in shared}
    return tuple(sorted(name for name in names if not name.endswith("__init__")))


def _export(
    one: TargetPlan, model: Model, key: str, progress: Progress, clock: _Clock
) -> tuple[Path, Export]:
    """The engine's files from the cache or by writing them."""
    backend = type(one.backend)
    key = cache.key(
        "export", modules=_backend_modules(backend.__module__), model=key, task=model.task,
        name=model.name, options=dataclasses.asdict(one.backend),  # type: ignore[call-overload]
        pooling=model.pooling, licence=model.licence.id,
        backend=cache.library_versions(one.target.backend),
    )  # fmt: skip

    def work(folder: Path) -> None:
        written = folder / "files"
        written.mkdir()
        export = one.backend.export(model, written, progress)
        text = json.dumps(dataclasses.asdict(export))
        (folder / "export.json").write_text(text, encoding="utf-8")

    folder, reused = cache.stage("export", key, work)
    table = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    for side in ("inputs", "outputs"):
        table[side] = tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in table[side])
    clock.stop("export", reused)
    return folder / "files", Export(**table | {"notes": tuple(table["notes"])})


def _backend_modules(name: str) -> tuple[str, ...]:
    """The modules of a backend: its own, those that share its prefix, and its graph code."""
    folder = Path(__file__).parent / "backends"
    stem = name.rpartition(".")[2]
    graphs = (folder / name for name in ("onnx_graph", f"{stem}_graph"))
    files = [file for one in graphs for file in one.glob("*.py")]
    files += [folder / "decoders.py", *folder.glob(f"{stem}*.py")]
    found = (f.relative_to(folder.parent).with_suffix("").parts for f in sorted(files))
    shared = tuple(SOURCES + module for module in SHARED_MODULES)
    return (*(SOURCES + ".".join(p) for p in found if p[-1] != "__init__"), *shared)


def exit_with(results: list[BuildResult]) -> None:
    """Raise LimitError (6) that names the bundles that did not pass."""
    bad = [result for result in results if not result.passed]
    if bad:
        names = ", ".join(f"{result.bundle.name} ({result.report.verdict})" for result in bad)
        raise LimitError(
            "check", names, "verdict pass", f"see {bad[0].bundle}.report/report.md"
        )


class _Clock:
    """Seconds by stage, and which stages came from the cache."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []
        self._last = time.perf_counter()

    def stop(self, stage: str, reused: bool = False) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        if reused:
            self.reused.append(stage)

    def copy(self) -> _Clock:
        other = _Clock()
        other.seconds = dict(self.seconds)
        return other
