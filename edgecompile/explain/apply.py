"""Make the change in the user's recipe file, and prove that a rebuild would use it."""
from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgecompile import recipe, shelf, target
from edgecompile.errors import MissingLibraryError, UsageError
from edgecompile.explain.subject import FLOAT_BITS, Subject
from edgecompile.init import write_recipe
from edgecompile.plan import make_pass
from edgecompile.recipe import PassChoice, pass_choices

KEPT = ("*.toml", "*.json", "*.md", "*.py")  # of a shelf's folder, as they ship


@dataclass(frozen=True)
class Applied:
    """What was changed, and how the bundle is built anew."""

    file: Path
    created: bool
    command: str


def toml(subject: Subject, bits: Mapping[str, int]) -> str:
    """The change as TOML, for a person to read or paste."""
    stages = {stage: table for stage, table in _tables(subject, bits).items() if table}
    return "\n".join(
        f"[{_where(subject, stage)}]\n"
        + "\n".join(f"{key} = {_spelled(value)}" for key, value in table.items())
        for stage, table in stages.items()
    )


def _where(subject: Subject, stage: str) -> str:
    variant = subject.data["variant"]
    return f"variants.{_key(variant)}.{stage}" if variant else stage


def _tables(subject: Subject, bits: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Options by stage; what allocate_bits has a say in has to be taken from it."""
    tables = {"quantize": {"overrides": overrides(subject, bits)}}
    allocated = _options(subject, "allocate_bits")
    if allocated is not None:
        skipped = [*allocated.get("skip", ()), *bits]
        tables["allocate_bits"] = {"skip": list(dict.fromkeys(skipped))}  # type: ignore[dict-item]
    return tables


def overrides(subject: Subject, bits: Mapping[str, int]) -> dict[str, int]:
    """Those that the bundle was built with and the new ones, which come last: the last fit wins.

    A recipe's overrides stand in place of a target's or the task's own, so all are written.
    """
    found = dict((_options(subject, "quantize") or {}).get("overrides", {}))
    for name, wanted in bits.items():
        patterns = list(found)
        later = patterns[patterns.index(name) + 1 :] if name in found else patterns
        if any(fnmatchcase(name, pattern) for pattern in later):
            found.pop(name, None)
        found[name] = wanted
    return found


def _options(subject: Subject, stage: str) -> dict[str, Any] | None:
    """What a pass of the bundle was built with; None where it did not run."""
    for one in subject.data["passes"]:
        if one.get("stage") == stage:
            return dict(one["options"])
    return None


def apply(subject: Subject, bits: Mapping[str, int]) -> Applied:
    """Write the change into ./models/NAME/recipe.toml; the file is as before where it would fail.

    A model of the shipped shelf gets a copy of its folder there, any other a recipe as `init`
    writes it.
    """
    try:
        import tomlkit
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            "explain --apply", "tomlkit is not installed", way_out="pip install 'tomlkit>=0.13'"
        ) from error
    file = Path("models") / subject.manifest.name / "recipe.toml"
    created = not file.exists()
    if created:
        _create(subject, file)
    before = file.read_text(encoding="utf-8")
    try:
        document = tomlkit.parse(before)
        if created and subject.manifest.name not in _shipped():
            _as_built(subject, document)
        for stage, table in _tables(subject, bits).items():
            _set(_table(document, _path(subject, stage)), table)
        _write(file, tomlkit.dumps(document))
        _prove(subject, file, bits)
    except BaseException:
        _write(file, before)
        if created:
            shutil.rmtree(file.parent)
        raise
    return Applied(file, created, command(subject, file))


def _shipped() -> set[str]:
    return {one.parent.name for one in shelf.models_folder().glob("*/recipe.toml")}


def _create(subject: Subject, file: Path) -> None:
    """A copy of the shipped folder, or a new recipe for the source."""
    name = subject.manifest.name
    if name in _shipped() and not subject.options.source:
        file.parent.mkdir(parents=True)
        for pattern in KEPT:
            for one in (shelf.models_folder() / name).glob(pattern):
                shutil.copyfile(one, file.parent / one.name)
        return
    task = "" if subject.model.task == "module" else subject.model.task
    write_recipe(subject.ref.place, name, task)


def _write(file: Path, text: str) -> None:
    """The whole file or none of it."""
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def _path(subject: Subject, stage: str) -> tuple[str, ...]:
    variant = subject.data["variant"]
    return ("variants", variant, stage) if variant else (stage,)


def _table(document: MutableMapping[str, Any], path: tuple[str, ...]) -> MutableMapping[str, Any]:
    """The table at that path, made where it is not there."""
    import tomlkit

    table = document
    for number, name in enumerate(path):
        if name not in table:
            table[name] = tomlkit.table(is_super_table=number + 1 < len(path))
        table = table[name]
    return table


def _as_built(subject: Subject, document: MutableMapping[str, Any]) -> None:
    """In a new recipe: the options of the passes that the bundle was built with."""
    for one in subject.data["passes"]:
        method = str(one["name"]).removeprefix(one["stage"]).removeprefix("_")
        stated = ({"method": method} if method else {}) | dict(one["options"])
        _set(_table(document, (one["stage"],)), stated)


def _set(table: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Set values; in a table that is there, keys that stay keep their place and comments."""
    import tomlkit

    for key, value in values.items():
        if not isinstance(value, Mapping):
            table[key] = value
            continue
        if key not in table:
            table[key] = tomlkit.inline_table()
        _become(table[key], value)


def _become(there: MutableMapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """The same keys and values in the same order of new ones, changing as little as possible."""
    stay = [key for key in there if key in wanted]
    if stay != [key for key in wanted if key in stay]:
        stay = []  # a pattern's place says which wins
    for key in [key for key in there if key not in stay]:
        del there[key]
    for key, value in wanted.items():
        if there.get(key) != value:
            there[key] = value


def _prove(subject: Subject, file: Path, bits: Mapping[str, int]) -> None:
    """UsageError where a build by that file would give one of the tensors other bits."""
    choice = next(one for one in _choices(subject, file) if one.stage == "quantize")
    schemes = make_pass(choice).preview(subject.model)
    for name, wanted in bits.items():
        found = schemes[name].bits if name in schemes else FLOAT_BITS
        if found != wanted:
            raise UsageError(
                str(file), f"{name} would still have {found} bits", str(wanted),
                "look for a [quantize] skip or a later pattern in overrides that fits it too",
            )  # fmt: skip


def _choices(subject: Subject, file: Path) -> tuple[PassChoice, ...]:
    """The passes of a build by that file, with the bundle's variant and target."""
    chosen = recipe.read(file, subject.data["variant"] or "")
    return pass_choices(
        chosen, subject.model.task, _target_table(subject), subject.model.parameters,
        subject.model.architecture,
    )  # fmt: skip


def _target_table(subject: Subject) -> Mapping[str, Any]:
    """What the target says of quantization; nothing where its file is not known here."""
    try:
        return target.find(subject.data["target"]).quantize
    except UsageError:
        return {}


def command(subject: Subject, file: Path) -> str:
    """The build by that recipe, with what the bundle was built with and the recipe lacks."""
    words = ["edgecompile", "build", file.as_posix(), "--target", subject.data["target"]]
    if subject.data["variant"]:
        words += ["--variant", subject.data["variant"]]
    for setting in settings(subject, _choices(subject, file)):
        words += ["--set", setting]
    if subject.options.data is not None:
        words += ["--data", str(subject.options.data)]
    return shlex.join([*words, "--overwrite"])


def settings(subject: Subject, choices: tuple[PassChoice, ...]) -> list[str]:
    """`--set` for each option in which the bundle's passes differ from the recipe's."""
    planned = {choice.stage: choice for choice in choices}
    found = []
    for one in subject.data["passes"]:
        stage, choice = one["stage"], planned.get(one["stage"])
        if stage == "prune":  # of several passes; its tables are named by methods
            continue
        method = str(one["name"]).removeprefix(stage).removeprefix("_")
        if method and (choice is None or choice.name != one["name"]):
            found.append(f"{stage}.method={method}")
        there = choice.options if choice is not None else {}
        found += [
            f"{stage}.{key}={_spelled(value)}"
            for key, value in one["options"].items()
            if key not in ("overrides", "skip", "convolutions") and there.get(key) != value
        ]
    return found


def _key(name: str) -> str:
    """A TOML key, quoted where it has to be."""
    bare = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
    return name if bare else json.dumps(name)


def _spelled(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_spelled(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    return json.dumps(value)
