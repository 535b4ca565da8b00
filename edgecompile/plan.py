"""Plans: every name, option, library, size and folder is checked before a weight is read."""
from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import bundle, cache, estimate, registry, sources, target
from edgecompile.backends import Backend
from edgecompile.errors import ResourceError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.recipe import PassChoice, Recipe, pass_choices
from edgecompile.sources import SourceRef
from edgecompile.target import Target

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


@dataclass(frozen=True)
class TargetPlan:
    """What one target will do: its passes, its backend, where its bundle goes."""

    target: Target
    backend: Backend
    passes: tuple[PassChoice, ...]
    schemes: Mapping[str, Scheme]
    output: Path
    estimate: estimate.Estimate


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
    source = sources.resolve(
        request.model, request.recipe, task=request.task, variant=request.variant,
        settings=[s for s in request.settings if not s.startswith(TARGET)],
    )  # fmt: skip
    if request.data and not request.data.is_file():
        raise UsageError("--data", f"{str(request.data)!r} is not a file")
    for one in targets:
        _refuse_existing(request, source, one)
    model = sources.describe(source)
    plans = tuple(_target_plan(request, source, model, one) for one in targets)
    _refuse_full_disk(request.out, plans)
    return Plan(request, source, model, plans)


def output_folder(request: Request, source: SourceRef, one: Target) -> Path:
    """`<out>/<model>-<target>[-<variant>]`."""
    parts = (source.name, one.name, *((request.variant,) if request.variant else ()))
    return request.out / "-".join(parts)


def _refuse_existing(request: Request, source: SourceRef, one: Target) -> None:
    output = output_folder(request, source, one)
    if output.exists() and not request.overwrite:
        raise bundle.existing(output)


def _target_plan(request: Request, source: SourceRef, model: Model, one: Target) -> TargetPlan:
    where = f"target {one.name}"
    backend: Backend = registry.create("backends", one.backend, one.options, f"{where} [options]")
    if model.task not in backend.tasks:
        raise UnsupportedError(
            where, f"task {model.task}", f"one of {', '.join(backend.tasks)}",
            f"build it for {_others(model.task, one)}",
        )  # fmt: skip
    if reason := backend.refusal(model):
        raise UnsupportedError(where, reason, way_out=f"build for {_others(model.task, one)}")
    choices = pass_choices(source.recipe, model.task, one.quantize, model.parameters)
    schemes = _schemes(choices, model)
    efforts = [make_pass(choice).effort(model) for choice in choices]
    estimated = estimate.estimate(model, backend, schemes, efforts)
    _refuse_budget(one, estimated)
    output = output_folder(request, source, one)
    return TargetPlan(one, backend, choices, schemes, output, estimated)


def make_pass(choice: PassChoice) -> Any:
    """The pass with its options checked."""
    return registry.create("passes", choice.name, choice.options, f"[{choice.stage}]")


def _schemes(choices: Iterable[PassChoice], model: Model) -> dict[str, Scheme]:
    found: dict[str, Scheme] = {}
    for choice in choices:
        chosen = make_pass(choice)
        found |= getattr(chosen, "schemes", chosen.preview)(model)  # which refuses to match nothing
    return found


def _others(task: str, one: Target) -> str:
    backends = {name: target.find(name).backend for name in target.names() if name != one.name}
    able = [n for n, b in backends.items() if task in registry.find("backends", b, n).tasks]
    return " or ".join(able) or "another target"


def _refuse_budget(one: Target, estimated: estimate.Estimate) -> None:
    size = estimated.size_bytes / 1e6
    if one.budget.size_mb and size > one.budget.size_mb:
        raise UnsupportedError(
            f"target {one.name}", f"the bundle will take {size:.0f} MB",
            f"at most {one.budget.size_mb:.0f} MB", "choose fewer bits: --set quantize.bits=4",
        )  # fmt: skip
    if one.budget.memory_mib and estimated.run_mib > one.budget.memory_mib:
        raise UnsupportedError(
            f"target {one.name}", f"running it will take {estimated.run_mib:.0f} MiB of memory",
            f"at most {one.budget.memory_mib:.0f} MiB",
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
