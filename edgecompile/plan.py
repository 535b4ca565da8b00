"""Plans: every name, option, library, size and folder is checked before a weight is read."""
from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile import bundle, cache, estimate, lock, recipe, registry, sources, target
from edgecompile.backends import Backend
from edgecompile.checks import own
from edgecompile.checks.costs import NO_GAIN
from edgecompile.errors import (
    BadInputError,
    EdgecompileError,
    MissingLibraryError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Effort, Reshapes, Sparsifies, uncalibrated
from edgecompile.recipe import PassChoice, Recipe, pass_choices
from edgecompile.sources import SourceRef
from edgecompile.structure import roles
from edgecompile.target import Target
from edgecompile.tasks import HALVES, TASKS
from edgecompile.text.captions import TABLES

# Passes after which zeros in weights are none.
FILLING = {
    "distill": "which trains all weights, and zeros with them",
    "distill_codes": "which trains all codes, and those of zeros with them",
    "quantize_importance": "after which llama.cpp's types with an offset (Q4_K, Q5_K) have no 0",
}  # fmt: skip
TARGET = "target."  # --set target.options.types=Q5_K_M changes the targets, not the recipe


@dataclass(frozen=True)
class Request:
    """What the user asked for, as on the command line."""

    model: str
    targets: tuple[str, ...]
    out: Path = Path("dist")
    variant: str = ""
    settings: tuple[str, ...] = ()
    recipe: Path | None = None
    task: str = ""
    data: Path | None = None
    overwrite: bool = False
    allow: tuple[str, ...] = ()
    lock: Path | None = None  # None: edgecompile.lock, where there is one
    relock: bool = False

    @property
    def lock_file(self) -> Path:
        """What holds the choices that earlier builds measured."""
        return self.lock or Path(lock.NAME)


@dataclass(frozen=True)
class TargetPlan:
    """What one target will do: its passes, its backend, where its bundle goes.

    With --relock `rivals` are plans for the target's other backends, to be measured against this
    one, and `refused` says which cannot take part and why.
    """

    target: Target
    backend: Backend
    passes: tuple[PassChoice, ...]
    schemes: Mapping[str, Scheme]
    output: Path
    estimate: estimate.Estimate
    rivals: tuple[TargetPlan, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A build that has been found possible; `model` is known from its headers only."""

    request: Request
    source: SourceRef
    model: Model
    targets: tuple[TargetPlan, ...]

    @property
    def recipe(self) -> Recipe:
        """The recipe after variant and --set."""
        return self.source.recipe


def plan(request: Request) -> Plan:
    """Check everything that is cheap; raises the error that `build` would have met later."""
    if not request.targets:
        raise UsageError("--target", "none given", f"one or more of {', '.join(target.names())}")
    of_targets = [s.removeprefix(TARGET) for s in request.settings if s.startswith(TARGET)]
    targets = [target.find(name, of_targets) for name in dict.fromkeys(request.targets)]
    for one in targets:
        _refuse_unbuilt(one)
    source = sources.resolve(
        request.model, request.recipe, task=request.task, variant=request.variant,
        settings=[s for s in request.settings if not s.startswith(TARGET)],
    )  # fmt: skip
    for one in targets:
        _refuse_existing(request, source, one)
    _refuse_untrained(request, source)
    own.of_recipe(source.recipe)  # what is wrong with them is said now
    model = sources.describe(source)
    _refuse_data(request.data, model.task)
    locked = _locked(request, of_targets)
    plans = tuple(_chosen_plan(request, source, model, one, locked) for one in targets)
    _refuse_full_disk(request.out, plans)
    return Plan(request, source, model, plans)


def _refuse_data(data: Path | None, task: str) -> None:
    takes = TASKS[task].takes
    kind = {"picture": "folder of pictures", "sound": "folder of WAV files", "text and picture":
            "folder of pictures or table of captions (CSV, JSONL)"
            }.get(takes, "file of text")  # fmt: skip
    folder = "picture" in takes or takes == "sound"
    if data is None or (data.is_dir() and folder):
        return
    table = takes != "text and picture" or data.suffix.lower() in TABLES
    if takes in ("picture", "sound") or not (data.is_file() and table):
        raise UsageError("--data", f"{str(data)!r} is no {kind}", f"a {kind} for a {task} model")


def _refuse_unbuilt(one: Target) -> None:
    if one.refused:
        raise UnsupportedError(f"target {one.name}", f"not built: {one.refused}")


def _refuse_untrained(request: Request, source: SourceRef) -> None:
    if source.untrained:
        folder = f"build/{source.name}"
        file = request.recipe or recipe.names().get(request.model) or request.model
        raise BadInputError(
            source.name, "its weights are not here yet: they are trained from its recipe",
            "a trained folder", f"edgecompile train {request.model} -o {folder}, and then "
            f"edgecompile build {folder} --recipe {file}",
        )  # fmt: skip


def output_folder(request: Request, source: SourceRef, one: Target) -> Path:
    """`<out>/<model>-<target>[-<variant>]`."""
    parts = (source.name, one.name, *((request.variant,) if request.variant else ()))
    return request.out / "-".join(parts)


def _refuse_existing(request: Request, source: SourceRef, one: Target) -> None:
    output = output_folder(request, source, one)
    if output.exists() and not request.overwrite:
        raise bundle.existing(output)


def _locked(request: Request, of_targets: list[str]) -> Mapping[str, lock.Choice]:
    """What earlier builds chose; nothing where the user names the backend, or measures anew."""
    named = any(setting.split("=")[0].strip() == "backend" for setting in of_targets)
    if request.relock and named:
        raise UsageError("--relock", "target.backend is set too", "one of the two")
    if request.relock or named or not (request.lock or request.lock_file.exists()):
        return {}
    return lock.read(request.lock_file)


def _chosen_plan(
    request: Request, source: SourceRef, model: Model, one: Target,
    locked: Mapping[str, lock.Choice],
) -> TargetPlan:  # fmt: skip
    """The plan for the locked backend, else the declared one; its rivals with --relock."""
    choice = locked.get(output_folder(request, source, one).name)
    if choice is not None and choice.backend not in registry.names("backends"):
        known = ", ".join(registry.names("backends"))
        raise UsageError(str(request.lock_file), f"backend {choice.backend!r}", f"one of {known}")
    chosen = one.on(choice.backend) if choice else one.preferred(model.task)
    if not request.relock:
        return _target_plan(request, source, model, chosen)
    if model.task == "module":
        raise UnsupportedError("--relock", "a torch module", "a model of text")
    possible, refused = [], {}
    for name in dict.fromkeys((chosen.backend, *one.backends())):
        try:
            possible.append(_target_plan(request, source, model, one.on(name)))
        except (UnsupportedError, MissingLibraryError) as error:
            refused[name] = str(error)
    if not possible:
        raise UnsupportedError(f"target {one.name}", "; ".join(refused.values()))
    return dataclasses.replace(possible[0], rivals=tuple(possible[1:]), refused=refused)


def _target_plan(request: Request, source: SourceRef, model: Model, one: Target) -> TargetPlan:
    where = f"target {one.name}"
    backend = _backend(one, where)
    if model.task not in backend.tasks:
        raise UnsupportedError(
            where, f"task {model.task}", f"one of {', '.join(backend.tasks)}",
            f"build it for {_others(model, one)}",
        )  # fmt: skip
    if reason := backend.refusal(model):
        raise UnsupportedError(where, reason, way_out=f"build for {_others(model, one)}")
    table = _quantize_table(one, model)
    choices = pass_choices(source.recipe, model.task, table, model.parameters, model.architecture)
    for choice in choices:
        files_of(choice, source.recipe)
    if model.task in HALVES and any(make_pass(choice).reads_text for choice in choices):
        raise uncalibrated(model.task)
    _refuse_zeros(request, one, choices)
    schemes, efforts, smaller = _walk(choices, model)
    if smaller.architecture != model.architecture and (reason := backend.refusal(smaller)):
        raise UnsupportedError(where, reason, way_out="leave [attention] out")
    estimated = estimate.estimate(smaller, backend, schemes, efforts, one.context_length)
    _refuse_budget(one, estimated)
    output = output_folder(request, source, one)
    return TargetPlan(one, backend, choices, schemes, output, estimated)


def _refuse_zeros(request: Request, one: Target, choices: Iterable[PassChoice]) -> None:
    """Zeros that the engine does not skip, and what would fill them again."""
    sparse: Sparsifies | None = None
    for choice in choices:
        chosen = make_pass(choice)
        if sparse is not None and choice.name in FILLING:
            raise UnsupportedError(
                f"target {one.name}", f"{choice.name}, {FILLING[choice.name]}",
                "what leaves zeros as they are", "prune by gradient or depth, or leave it out",
            )  # fmt: skip
        if not isinstance(chosen, Sparsifies):
            continue
        sparse = chosen
        if (why := sparse.no_gain(one.backend)) and NO_GAIN not in request.allow:
            gaining = [name for name in registry.names("backends") if not sparse.no_gain(name)]
            raise UnsupportedError(
                f"target {one.name}", f"{why}: the bundle would be no smaller and no faster",
                f"a backend that gains: {', '.join(gaining)}",
                f"--allow {NO_GAIN}, or `edgecompile compress` for the checkpoint alone",
            )  # fmt: skip


def _quantize_table(one: Target, model: Model) -> Mapping[str, Any]:
    """The target's; what it says of convolutions is left out where the model has none.

    Such a model's codes are the same for all targets then, and made once.
    """
    if "convolutions" not in one.quantize or "convolution" in roles(model).values():
        return one.quantize
    return {key: value for key, value in one.quantize.items() if key != "convolutions"}


def _backend(one: Target, where: str) -> Backend:
    """The target's backend with its options, and the target's context length where it asks."""
    kind, options = registry.find("backends", one.backend, where), dict(one.options)
    if one.context_length and any(f.name == "context_length" for f in dataclasses.fields(kind)):
        options.setdefault("context_length", one.context_length)
    made: Backend = registry.create("backends", one.backend, options, f"{where} [options]")
    return made


def make_pass(choice: PassChoice) -> Any:
    """The pass with its options checked."""
    return registry.create("passes", choice.name, choice.options, f"[{choice.stage}]")


def files_of(choice: PassChoice, recipe: Recipe) -> list[Path]:
    """Files that a pass's options name, beside the recipe; UsageError for one that is not there."""
    chosen = make_pass(choice)
    named = {name: getattr(chosen, name) for name in getattr(chosen, "reads_files", ())}
    found = {name: recipe.folder / value for name, value in named.items() if value}
    for name, file in found.items():
        if not file.is_file():
            raise UsageError(f"[{choice.stage}] {choice.name} {name}", f"no file {str(file)!r}",
                             "a file beside the recipe, or a whole path")  # fmt: skip
    return list(found.values())


def _walk(
    choices: Iterable[PassChoice], model: Model
) -> tuple[dict[str, Scheme], list[Effort], Model]:
    """Schemes, what each pass will take, and the model that is exported: all from headers."""
    schemes: dict[str, Scheme] = {}
    efforts = []
    for choice in choices:
        chosen = make_pass(choice)
        efforts.append(chosen.effort(model))
        schemes |= getattr(chosen, "schemes", chosen.preview)(model)  # refuses to match nothing
        if isinstance(chosen, Reshapes):
            model = chosen.headers(model)
    return schemes, efforts, model


def _others(model: Model, one: Target) -> str:
    able = []
    for name in target.names():
        with contextlib.suppress(EdgecompileError):  # its library is missing here
            backend = _backend(target.find(name).preferred(model.task), name)
            if name != one.name and model.task in backend.tasks and not backend.refusal(model):
                able.append(name)
    return " or ".join(able) or "another target"


def _refuse_budget(one: Target, estimated: estimate.Estimate) -> None:
    size = estimated.size_bytes / 1e6
    if one.budget.size_mb and size > one.budget.size_mb:
        raise UnsupportedError(
            f"target {one.name}", f"the bundle will take {size:.0f} MB",
            f"at most {one.budget.size_mb:.0f} MB", "choose fewer bits: --set quantize.bits=4",
        )  # fmt: skip
    whole = estimated.run_mib + estimated.cache_mib
    if one.budget.memory_mib and whole > one.budget.memory_mib:
        found = f"running it will take {whole:.0f} MiB of memory"
        if estimated.cache_mib:
            found += f", {estimated.cache_mib:.0f} of it for the keys and values of "
            found += f"{estimated.context_length} tokens"
        raise UnsupportedError(
            f"target {one.name}", found, f"at most {one.budget.memory_mib:.0f} MiB",
            "choose fewer bits, or a shorter context: --set target.context_length=1024",
        )  # fmt: skip


def _refuse_full_disk(out: Path, plans: tuple[TargetPlan, ...]) -> None:
    needs = {
        out: sum(one.estimate.size_bytes for one in plans),
        cache.folder(): max(one.estimate.cache_bytes for one in plans),
    }
    for folder, needed in needs.items():
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise ResourceError(
                str(folder), f"{free / 1e6:.0f} MB free", f"about {needed / 1e6:.0f} MB",
                "free space, or name another folder with -o or EDGECOMPILE_CACHE",
            )  # fmt: skip
