"""`edgecompile train`: everything cheap is checked first, then the model learns and is saved."""
from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile import __version__, bundle, cache, host, sources
from edgecompile.config import Table
from edgecompile.errors import (
    MissingLibraryError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from edgecompile.passes import Progress
from edgecompile.sources import SourceRef
from edgecompile.train import (
    augment,
    checkpoints,
    curve,
    lora,
    precision,
    saving,
    script,
    source,
    tasks,
)
from edgecompile.train.data import Augment, Data, Keys, names_of, read
from edgecompile.train.loop import Fitted, Place, Row, fit
from edgecompile.train.metrics import METRICS, replace_text
from edgecompile.train.objectives import Objective
from edgecompile.train.objectives.several import Heads, Several
from edgecompile.train.objectives.texts import unchanged
from edgecompile.train.options import TaskOptions, TrainOptions, parse

WORK = ".train"  # ends the name of the folder with checkpoints, then the report
CPU = torch.device("cpu")
REPORT = "report.json"
CHECKPOINTS = 4.5  # bytes of a run's files for one of its weights: they, two moments, one more
# What changes neither which steps a run has nor what they compute, but for rounding
FREE = ("threads", "save_every", "parallel", "accumulate")


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: str
    out: Path
    data: Path | None = None
    held_out: Path | None = None
    task: str = ""
    recipe: Path | None = None
    variant: str = ""
    settings: tuple[str, ...] = ()
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Trained:
    """A saved model: its folder (one a task below it, where there are several), its report."""

    folder: Path
    report: Path
    summary: Mapping[str, Any]
    main: bool


@dataclass(frozen=True)
class Part:
    """One head of a run: its name (empty: the only one), its task and rows."""

    name: str
    task: str
    data: Data
    labels: tuple[str, ...]


def train(request: Request, watch: Callable[[Row], None], progress: Progress) -> Trained:
    """Train what the request names and save it; raises before the first step where it can."""
    ref = sources.resolve(
        request.model, request.recipe, task=request.task, variant=request.variant,
        settings=request.settings,
    )  # fmt: skip
    options = parse(ref.recipe.train, f"recipe {ref.name} [train]")
    refuse_machine(options)
    work = work_of(request.out)
    refuse_existing(request, work)
    parts = read_parts(request, ref, options)
    models = [source.source_model(ref, part.task, progress) for part in parts]
    lessons = [
        tasks.Lesson(model, part.data, options, part.labels, augmentation(options, part))
        for model, part in zip(models, parts, strict=True)
    ]
    refuse_full_disk(work, models[0].parameters, options)
    mark = fingerprint(options, parts, models[0].source.digest)
    if request.out.exists() and not request.overwrite:  # resumed, but it had just ended
        return Trained(request.out, work, finished(request.out, work, mark), True)
    objective, module = assemble(parts, lessons, options)
    fitted = fit(module, objective, options, Place(work, mark, request.resume, watch))
    summary = summarize(ref, parts, fitted, options)
    summary |= {"source_digest": models[0].source.digest, "fingerprint": mark}
    if fitted.main:
        with checkpoints.disk_errors(work):
            report(work, fitted, objective.measure, summary)
            save(request, parts, lessons, fitted, summary)
        checkpoints.remove_all(work)
    return Trained(request.out, work, summary, fitted.main)


def refuse_machine(options: TrainOptions) -> None:
    """MissingLibraryError (4), or UnsupportedError (3) for a precision that no device here has."""
    for name in ("accelerate", *(("peft",) if options.lora.rank else ())):
        if importlib.util.find_spec(name) is None:
            way_out = "pip install 'edgecompile[train]'"
            raise MissingLibraryError("train", f"{name} is not installed", way_out=way_out)
    precision.refuse(options.precision, torch.accelerator.current_accelerator() or CPU)


def augmentation(options: TrainOptions, part: Part) -> Augment:
    """What `[train.augment]` does to a training text; the held-out rows never meet it.

    Words that a class depends on are found in the training rows and stay.
    """
    if not options.augment:
        return unchanged
    methods = augment.Augment.from_table(
        {"seed": options.seed, **options.augment}, "[train.augment]"
    )
    if part.task == "token-classification":
        found = "a label for each word, which another text would not fit"
        raise UnsupportedError("[train.augment]", found, way_out="leave the table out")
    labelled = part.data.training if part.task == "classification" else ()
    return methods.fitted((row.text, names_of(row)[0]) for row in labelled)


def refuse_existing(request: Request, work: Path) -> None:
    """UsageError (2) for an output that is there, or a run that was not finished."""
    ended = request.resume and (work / REPORT).is_file()
    if request.out.exists() and not request.overwrite and not ended:
        raise bundle.existing(request.out)
    begun = checkpoints.latest(work) if work.is_dir() else None
    if begun is not None and not request.resume and not request.overwrite:
        raise UsageError(
            str(work), f"holds a run that was not finished ({begun.name})",
            way_out="add --resume to go on with it, or --overwrite to start anew",
        )  # fmt: skip


def finished(out: Path, work: Path, mark: str) -> dict[str, Any]:
    """The report of a run that had saved its model already; UsageError (2) if it was another."""
    summary: dict[str, Any] = json.loads((work / REPORT).read_text(encoding="utf-8"))
    if summary.get("fingerprint") != mark:
        raise bundle.existing(out)
    checkpoints.remove_all(work)
    return summary


def refuse_full_disk(work: Path, parameters: int, options: TrainOptions) -> None:
    """ResourceError (7) where checkpoints and the result cannot fit."""
    share = 0.1 if options.lora.rank else 1.0
    need = parameters * 4 * (CHECKPOINTS * share + 1) / 2**20
    free = host.disk_free_mib(work)
    if 0 < free < need:
        found = f"{free} MiB free"
        raise ResourceError(str(work.parent), found, f"about {need:.0f} MiB", "free space, or -o")


def read_parts(request: Request, ref: SourceRef, options: TrainOptions) -> list[Part]:
    """The rows of each task, with the labels of its head."""
    if options.tasks:
        return [_task_part(name, one, ref, options) for name, one in options.tasks.items()]
    spec = ref.recipe.data
    file, held_out = files(request, ref)
    keys = Keys(spec.text, options.pair, spec.label)
    data = read(file, keys, held_out, options.held_out)
    # A recipe's task is what its model was made for, which rows with labels can change.
    task = request.task or tasks.task_for(data, ref.task or source.own_task(ref))
    return [Part("", task, data, tasks.labels_of(task, data))]


def files(request: Request, ref: SourceRef) -> tuple[Path, Path | None]:
    """The user's file, else the recipe's, else what its script writes beside the run's report."""
    spec = ref.recipe.data
    if request.data:
        return request.data, request.held_out
    if spec.file:
        return ref.recipe.folder / spec.file, request.held_out
    if not spec.script:
        raise UsageError("train", "no data", "--data FILE, or [data] file in the recipe")
    training, held_out = script.rows(ref.recipe, work_of(request.out) / "data")
    return training, request.held_out or held_out


def work_of(out: Path) -> Path:
    """The folder of a run beside the model's."""
    return out.with_name(out.name + WORK)


def _task_part(name: str, one: TaskOptions, ref: SourceRef, options: TrainOptions) -> Part:
    folder = ref.recipe.folder
    held_out = folder / one.held_out if one.held_out else None
    keys = Keys(one.text, one.pair, one.label)
    data = read(folder / one.data, keys, held_out, options.held_out)
    return Part(name, one.task, data, tasks.labels_of(one.task, data))


def assemble(
    parts: list[Part], lessons: list[tasks.Lesson], options: TrainOptions
) -> tuple[Objective, nn.Module]:
    """The objective and the module to fit, with a head a part; heads are seeded."""
    torch.manual_seed(options.seed)
    named = dict(zip((part.name for part in parts), lessons, strict=True))
    objectives = {name: tasks.objective_of(one) for name, one in named.items()}
    modules = {
        name: source.module_of(one.model, one.labels, options.dropout)
        for name, one in named.items()
    }
    if len(parts) == 1 and not parts[0].name:
        module = modules[""]
        if options.lora.rank:
            module = lora.adapted(module, options.lora, bool(parts[0].labels))
        return objectives[""], module
    weights = {name: one.weight for name, one in options.tasks.items()}
    several = Several(objectives, weights, options.temperature, options.seed)
    return several, Heads(modules)


def fingerprint(options: TrainOptions, parts: list[Part], digest: str) -> str:
    """SHA-256 of all that the curve of a run depends on."""
    table = {k: v for k, v in dataclasses.asdict(options).items() if k not in FREE}
    rows = [[part.name, part.task, part.labels, part.data.digests] for part in parts]
    text = json.dumps([table, rows, digest], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def summarize(
    ref: SourceRef, parts: list[Part], fitted: Fitted, options: TrainOptions
) -> dict[str, Any]:
    """What report.json says: no text of the user's, no time, no place."""
    return {
        "edgecompile": __version__, "libraries": versions(), "cpu_level": host.cpu_level(),
        "threads": options.threads or host.usable_cores(),
        "model": ref.name, "seed": options.seed,
        "options": dataclasses.asdict(options), "steps": len(fitted.rows), "kept": fitted.step,
        "resumed_at": fitted.resumed, "held_out": dict(fitted.held_out),
        "tasks": [
            {
                "name": part.name, "task": part.task, "labels": list(part.labels),
                "training_rows": len(part.data.training), "held_out_rows": len(part.data.held_out),
                "held_out": part.data.how, "dropped": part.data.dropped,
                "digests": part.data.digests,
            }
            for part in parts
        ],
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the libraries that shape the weights."""
    from importlib import metadata

    found = cache.library_versions()
    return {**found, "accelerate": metadata.version("accelerate")}


def save(
    request: Request, parts: list[Part], lessons: list[tasks.Lesson], fitted: Fitted,
    summary: Table,
) -> None:  # fmt: skip
    """Write the model's folder, or one a task, under its name in one step."""
    module: Any = fitted.module
    request.out.parent.mkdir(parents=True, exist_ok=True)
    with cache.private_folder(request.out.parent, request.out.name) as staging:
        for part, lesson in zip(parts, lessons, strict=True):
            folder = staging / part.name if part.name else staging
            one = module.heads[part.name] if part.name else module
            one = lora.merged(one) if lesson.options.lora.rank else one
            folder.mkdir(exist_ok=True)
            saving.write(folder, one, lesson.model, card_rows(part, summary))
        saving.publish(staging, request.out, request.overwrite)


def card_rows(part: Part, summary: Table) -> dict[str, Any]:
    """What the model card says of the run."""
    head = f"{part.name}/" if part.name else ""
    held_out = summary["held_out"].items()
    found = {f"held-out {name.removeprefix(head)}": value
             for name, value in held_out if name.startswith(head)}  # fmt: skip
    return {
        "training rows": len(part.data.training),
        "held-out rows": f"{len(part.data.held_out)} ({part.data.how})",
        "steps": summary["steps"], "seed": summary["seed"], **found,
    }  # fmt: skip


def report(work: Path, fitted: Fitted, measure: str, summary: Table) -> None:
    """metrics.jsonl is there; add curve.svg and report.json."""
    text = json.dumps(summary, indent=2, sort_keys=True, default=str) + "\n"
    replace_text(work / REPORT, text)
    replace_text(work / "curve.svg", curve.draw(fitted.rows, measure))
    if not (work / METRICS).is_file():
        replace_text(work / METRICS, "".join(json.dumps(row) + "\n" for row in fitted.rows))
