"""Recipes: what to do to a model, as a TOML file; variants are named changes of it."""
from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgecompile import shelf
from edgecompile.architectures import DECODERS
from edgecompile.config import Table, apply_setting, make, nearest, read_toml
from edgecompile.errors import UsageError

# Pass stages in the order in which they run; a table `[quantize] method = "rtn"` names the
# pass quantize_rtn, and a table without a method names the pass after the stage itself.
STAGES = ("attention", "prune", "distill", "allocate_bits", "quantize", "distill_codes")
RESHAPING = ("attention", "prune", "distill")  # their passes write another checkpoint
LEARNING = "distill_codes"  # teaches the codes that [quantize] chose
# Methods of [prune] that may stand in tables of their own ([prune.vocab]), in the order in which
# they run: what makes those after it cheaper comes first (docs/decisions/0013-vocabulary.md), zeros
# come last, as widths are chosen among weights that count.
PRUNING = ("vocab", "depth", "l2", "gradient", "activation", "wanda", "sparsegpt")

# What a plain build does where neither target nor recipe speaks (docs/quality.md has the figures).
# In a decoder the embedding, which is often the head too, and the small value projections lose most
# at 4 bits. Encoders lose next to nothing at 8 bits, calibrated or not.
_DECODER: Table = {"bits": 4, "embedding_bits": 8, "overrides": {"*.v_proj.weight": 8}}
DEFAULT_QUANTIZE: Mapping[str, Table] = {
    "text-generation": {"method": "gptq", **_DECODER},
}
_ONE_CALL: Table = {"method": "rtn", "bits": 8}
LARGEST_CALIBRATED = 3_000_000_000  # parameters: above, hours on a processor


def default_quantize(task: str, parameters: int, architecture: str = "") -> Table:
    """The quantize table of a task; without calibration for models that would take hours."""
    table = dict(DEFAULT_QUANTIZE.get(task, _ONE_CALL))
    if task == "text-generation" and parameters > LARGEST_CALIBRATED:
        table["method"] = "rtn"
    if architecture in DECODERS and DECODERS[architecture].fused:
        _, _, name = DECODERS[architecture].names.own("self_attn.qkv_proj").rpartition(".")
        table["overrides"] = {f"*.{name}.weight": 8}  # the values are in it
    return table

# Measures for the types of an engine's own: options of our grid have no say then.
IMPORTANCE, IMPORTANCE_OPTIONS = "importance", ("texts", "length")

Task = Literal[
    "", "embedding", "classification", "token-classification", "fill-mask", "text-ranking",
    "text-generation", "text2text-generation", "automatic-speech-recognition",
    "image-classification", "image-text-embedding", "module",
]


@dataclass(frozen=True)
class SourceSpec:
    """Where a recipe's model is: `path` alone, or `path` inside an installed Python `package`."""

    path: str = ""
    package: str = ""
    pip: str = ""  # what to `pip install` when the package is missing
    model: str = ""  # package.module:function


@dataclass(frozen=True)
class DataSpec:
    """Text for calibration and checks; without a file, the default prose.

    With a file of its own, `calibration` is all that passes learn from, and the check has the rest.
    """

    file: str = ""
    calibration: str = ""
    script: str = ""  # file:function beside the recipe, which writes what `train` reads
    text: str = "text"  # column or key of the text
    label: str = "label"


@dataclass(frozen=True)
class MetricSpec:
    """A metric of the user's own: `[check.metrics.NAME]` (docs/own-metrics.md).

    `function` is `file.py:function` beside the recipe, or `package.module:function`.
    """

    function: str
    direction: Literal["higher", "lower"]
    limit: float | None = None  # without one it is measured
    ideal: float | None = None  # the value that loses nothing; 1 where higher is better, else 0
    unit: str = ""


@dataclass(frozen=True)
class CheckSpec:
    """How much to measure, and limits stricter than the rule's (docs/decisions/0003-limits.md)."""

    texts: int = 256
    tokens: int = 4096
    answers: int = 64  # of a decoder, for metrics of the user's own
    answer_tokens: int = 48
    limits: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class LicenceSpec:
    """The licence where the model card does not say it."""

    id: str = ""
    use_policy: str = ""


@dataclass(frozen=True)
class Recipe:
    """models/<name>/recipe.toml; the pass tables hold the options of one pass each."""

    name: str
    folder: Path
    description: str = ""
    task: Task = ""
    source: SourceSpec = field(default_factory=SourceSpec)
    licence: LicenceSpec = field(default_factory=LicenceSpec)
    data: DataSpec = field(default_factory=DataSpec)
    check: CheckSpec = field(default_factory=CheckSpec)
    load: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)  # of `edgecompile train`
    attention: Mapping[str, Any] = field(default_factory=dict)
    prune: Mapping[str, Any] = field(default_factory=dict)
    distill: Mapping[str, Any] = field(default_factory=dict)
    allocate_bits: Mapping[str, Any] = field(default_factory=dict)
    quantize: Mapping[str, Any] = field(default_factory=dict)
    distill_codes: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class PassChoice:
    """One pass to run: its stage, its name in passes/, its options."""

    stage: str
    name: str
    options: Mapping[str, Any]


def names() -> dict[str, Path]:
    """Recipes on the shelf by model name: ./models before the shipped shelf."""
    found: dict[str, Path] = {}
    for folder in (shelf.models_folder(), Path("models")):
        found.update({f.parent.name: f for f in sorted(folder.glob("*/recipe.toml"))})
    return found


def read(path: Path, variant: str = "", settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply a variant, then `--set` changes."""
    name = path.absolute().parent.name if path.name == "recipe.toml" else path.stem
    return parse(name, path.parent, read_toml(path), variant, settings)


def parse(
    name: str, folder: Path, table: Table, variant: str = "", settings: Iterable[str] = ()
) -> Recipe:
    """A recipe from its table; every unknown key is reported with the nearest known name."""
    where = f"recipe {name}"
    merged: dict[str, Any] = copy.deepcopy(dict(table))
    variants = merged.get("variants", {})
    if variant:
        if variant not in variants:
            found = f"{variant!r} is not in {where}"
            raise UsageError("--variant", found, nearest(variant, variants))
        merged = merge(merged, variants[variant])
    for setting in settings:
        apply_setting(merged, setting)
    for key, kind in (
        ("source", SourceSpec), ("licence", LicenceSpec), ("data", DataSpec), ("check", CheckSpec)
    ):
        section = merged.get(key, {})
        if isinstance(section, Mapping):
            if key == "check":
                section = _with_metrics(section, where)
            merged[key] = make(kind, section, f"{where} [{key}]")
    return make(Recipe, merged | {"name": name, "folder": folder}, where)


def _with_metrics(section: Table, where: str) -> Table:
    """[check] with its tables of metrics typed."""
    tables = section.get("metrics", {})
    if not isinstance(tables, Mapping):
        return section
    typed = {}
    for name, table in tables.items():
        place = f"{where} [check.metrics.{name}]"
        if not isinstance(table, Mapping):
            raise UsageError(place, f"{table!r} is no table", "function, direction and limit")
        typed[name] = make(MetricSpec, table, place)
    return {**section, "metrics": typed}


def merge(base: Table, change: Table) -> dict[str, Any]:
    """`change` laid over `base`, tables merged key by key."""
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def pass_choices(
    recipe: Recipe, task: str, target_quantize: Table, parameters: int = 0, architecture: str = ""
) -> tuple[PassChoice, ...]:
    """Passes in order; quantize takes the default, then the target's table, then the recipe's."""
    choices: list[PassChoice] = []
    for stage in STAGES:
        table = dict(getattr(recipe, stage))
        if stage == "quantize":
            table = {**default_quantize(task, parameters, architecture), **target_quantize, **table}
            table = _quantize(table, target_quantize)
        method = table.pop("method", "")
        if method == "none":
            continue
        several = _several(table) if stage == "prune" else {}
        if method in several:
            raise UsageError(f"[prune] method = {method!r}", f"[prune.{method}] too", "one of them")
        if method or table.keys() - several:
            several[method] = {key: table[key] for key in table if key not in several}
        for name in sorted(several, key=_place):
            full = f"{stage}_{name}" if name else stage
            choices.append(PassChoice(stage, full, several[name]))
    _refuse_without_codes(choices)
    return tuple(choices)


def _several(table: Table) -> dict[str, Table]:
    """The tables in it that are named by a method."""
    return {n: table[n] for n in PRUNING if isinstance(table.get(n), Mapping)}


def _place(method: str) -> int:
    return PRUNING.index(method) if method in PRUNING else len(PRUNING)


def _refuse_without_codes(choices: Iterable[PassChoice]) -> None:
    """UsageError where codes are to be learned that no pass chooses."""
    passes = {choice.stage: choice.name for choice in choices}
    chosen = passes.get("quantize", "none")
    if "distill_codes" in passes and chosen in ("none", f"quantize_{IMPORTANCE}"):
        raise UsageError(
            "[distill_codes]", f"quantize.method={chosen.removeprefix('quantize_')}, which "
            "chooses no codes", "one that does", "--set quantize.method=gptq",
        )  # fmt: skip


def _quantize(table: dict[str, Any], target_quantize: Table) -> dict[str, Any]:
    """The quantize table; a target that leaves rounding to its engine overrules the recipe's."""
    asked = target_quantize.get("method") == IMPORTANCE and table.get("method") != "none"
    if not asked and table.get("method") != IMPORTANCE:
        return table
    kept = {key: table[key] for key in IMPORTANCE_OPTIONS if key in table}
    return {"method": IMPORTANCE, **kept}
