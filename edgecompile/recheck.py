"""`edgecompile check`: prove a sealed bundle again, later or elsewhere."""
from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile import build, codes, recipe, sources
from edgecompile.check import check_bundle
from edgecompile.checks import Limits, emulated, own
from edgecompile.checks.sealed import refuse_another_source
from edgecompile.emulate.runner import Emulator
from edgecompile.errors import BadInputError, UsageError
from edgecompile.model import Model, Reshaped, Rounded
from edgecompile.passes import Progress
from edgecompile.report import CheckReport, unproven
from edgecompile.report.files import folder_of, write_reports
from edgecompile.runtime.manifest import Manifest, read_manifest
from edgecompile.target import Budget

CODES = "quantize"  # the stage whose codes are taught after
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Recheck:
    """What the user asked for, as on the command line."""

    bundle: Path
    source: str | None = None
    data: Path | None = None
    allow: tuple[str, ...] = ()
    require_device: bool = False
    on: tuple[str, ...] = ()  # emulated levels, by name
    recipe: Path | None = None


def recheck(request: Recheck, progress: Progress) -> CheckReport:
    """Find the source, check the bundle, write its report."""
    manifest = read_manifest(request.bundle)
    emulators = emulated.emulators_of(request.on, manifest)  # lacks a tool: said at once
    ref = source_of(request, manifest)
    metrics = own.of_recipe(ref.recipe)
    emulated.prepare(emulators, progress)
    model = loaded(ref, manifest, progress)
    budget = Budget(**manifest.data["target_options"]["budget"])
    limits = Limits.of(ref.recipe.check, budget, request.allow, metrics)
    corpus = build.corpus_of(ref.recipe, request.data, model.task)
    report = check_bundle(request.bundle, model, corpus, limits, progress)
    report = dataclasses.replace(report, bundle=request.bundle.name)
    if emulators:
        texts = [document.text for document in corpus.held_out]
        subject = emulated.Subject(request.bundle, manifest, model, texts, progress)
        report = _with_levels(report, subject, emulators)
    if request.require_device and report.proven_on.get("device") != "real":
        row = unproven("device", "proven_on", f"only on {report.proven_on.get('device')}")
        report = dataclasses.replace(report, rows=(*report.rows, row))
    write_reports(report, folder_of(request.bundle))
    return report


def _with_levels(
    report: CheckReport, subject: emulated.Subject, emulators: Sequence[Emulator]
) -> CheckReport:
    """The report with rows of each emulated level; check_bundle has verified the files."""
    start = time.perf_counter()
    rows = tuple(emulated.rows(subject, emulators))
    seconds = {**report.seconds, "emulated": round(time.perf_counter() - start, 3)}
    proven_on = emulated.proven_on(emulators, report.proven_on)
    return dataclasses.replace(
        report, rows=(*report.rows, *rows), proven_on=proven_on, seconds=seconds
    )


def source_of(request: Recheck, manifest: Manifest) -> sources.SourceRef:
    """By --source, else the recipe's, else the shelf's model of that name; with --recipe's recipe.

    Nothing in the bundle says which recipe, whose metrics are code that runs.
    """
    if request.recipe is None:
        return _found(request, manifest)
    chosen = recipe.read(request.recipe)
    if request.source is None and (chosen.source.path or chosen.source.model):
        ref = sources.resolve(str(request.recipe), request.recipe)
        if not ref.untrained:
            return dataclasses.replace(ref, name=manifest.name)
    ref = _found(request, manifest)
    return dataclasses.replace(ref, recipe=dataclasses.replace(chosen, name=ref.recipe.name))


def _found(request: Recheck, manifest: Manifest) -> sources.SourceRef:
    task = "" if manifest.task == "module" else manifest.task
    if request.source:
        return sources.resolve(request.source, task=task)
    if manifest.name in recipe.names():
        ref = sources.resolve(manifest.name, task=task)
        if not ref.untrained:  # what the shelf trains is in the user's folder
            return ref
    stated = manifest.data["source"]
    remembered = sources.remembered(stated.get("origin", stated["digest"]))
    if remembered:
        return sources.resolve(remembered, task=task)
    raise UsageError(
        str(request.bundle), f"the source model of {manifest.name!r} is not known here",
        way_out="add --source MODEL (a folder, a GGUF file or package.module:function)",
    )  # fmt: skip


def loaded(ref: sources.SourceRef, manifest: Manifest, progress: Progress) -> Model:
    """The model that was exported; with its origin, where passes made it of another."""
    model = dataclasses.replace(sources.load(ref, progress), name=manifest.name)
    stated = manifest.data["source"]
    if "origin" in stated:
        refuse_another_source(stated["origin"], model)
        model = _smaller(model, manifest)
    refuse_another_source(stated["digest"], model)
    digest = stages_of(manifest.data).get(CODES)
    return model if digest is None else dataclasses.replace(model, rounded=_rounded(digest))


def _smaller(origin: Model, manifest: Manifest) -> Model:
    """The checkpoint that this machine's build made of the origin, and those on the way to it."""
    from edgecompile.pruning.checkpoint import adopt

    digest = manifest.data["source"]["digest"]
    place = sources.remembered(digest)
    if not (place and Path(place).is_dir()):
        raise UsageError(
            origin.name, f"the smaller model {digest[:16]} that it was exported from is not here",
            "the cache of the machine that built it", "build it again: the same bytes result",
        )  # fmt: skip
    made = adopt(origin, Path(place))
    stated = [Reshaped(*one) for one in stages_of(manifest.data).items() if one[0] != CODES]
    between = [dataclasses.replace(one, model=_between(origin, one.digest)) for one in stated[:-1]]
    return dataclasses.replace(made, reshaped=(*between, *stated[-1:]))


def stages_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The digest of what stages left for the next ones to change; empty in older manifests."""
    ran = [entry.get("stage") for entry in manifest["passes"]]
    names = [name for name in recipe.RESHAPING if name in ran]
    names += [CODES] if recipe.LEARNING in ran else []
    stated = manifest["source"].get("stages")
    if stated is None:
        return dict.fromkeys(names, "")
    try:
        found = {str(one["stage"]): str(one["digest"]) for one in stated}
    except (TypeError, KeyError):
        found = {}
    if list(found) != names or not all(map(SHA256.fullmatch, found.values())):
        expected = f"the SHA-256 of each of {', '.join(names) or 'no stage'}"
        raise BadInputError("manifest: source: stages", f"{stated!r:.200}", expected)
    return found


def _rounded(digest: str) -> Rounded:
    """Codes before they were taught; their digest alone where they are not here, or not whole."""
    from safetensors import SafetensorError

    place = sources.remembered(digest) if digest else ""
    if not (place and Path(place).is_dir()):
        return Rounded(digest)
    try:
        quantized, replaced = codes.load(Path(place))
        whole = codes.digest(quantized, replaced) == digest
    except (OSError, SafetensorError):
        return Rounded(digest)
    return Rounded(digest, quantized, replaced) if whole else Rounded(digest)


def _between(origin: Model, digest: str) -> Model | None:
    """The model of a stage before the last; None where it is not here any more, or not whole."""
    from edgecompile.pruning.checkpoint import adopt

    place = sources.remembered(digest) if digest else ""
    if not (place and Path(place).is_dir()):
        return None
    try:
        found = adopt(origin, Path(place))
    except (BadInputError, OSError):
        return None
    return found if found.source.digest == digest else None
