"""A smaller model as a plain Hugging Face folder, written tensor by tensor, and taken up again."""
from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgecompile import sources
from edgecompile.architectures import turned
from edgecompile.model import Model, Reshaped, Source
from edgecompile.passes import CHECKPOINT, NOTE
from edgecompile.pruning.axes import Shape
from edgecompile.sources import huggingface
from edgecompile.tokenizer import dumps

SHARD_BYTES = 1 << 30
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
KEPT = ("1_Pooling", "2_Normalize", "additional_chat_templates")  # folders beside the files


def cut(model: Model, shape: Shape, kept: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor with the kept units (int64, by an axis's key) of each axis that runs through it."""
    tensor = model.weights[name]
    places: dict[int, list[Tensor]] = {}
    for one, axis in sorted(shape.cuts().get(name, ()), key=lambda pair: pair[0].offset):
        units = kept[axis.key][:, None] * one.size + torch.arange(one.size)
        places.setdefault(one.dim, []).append(units.flatten() + one.offset)
    for dim, parts in places.items():
        tensor = tensor.index_select(dim, torch.cat(parts))
    return tensor.contiguous()


def write(
    model: Model, folder: Path, config: Mapping[str, Any], names: Iterable[str],
    tensor: Callable[[str], Tensor],
) -> None:  # fmt: skip
    """Write weights (in shards of 1 GiB), config, and the model's other files as they are."""
    folder.mkdir(parents=True)
    for file in (*huggingface.tokenizer_files(model.folder), *model.licence.files):
        target = folder / file.relative_to(model.folder) if file.is_relative_to(model.folder) \
            else folder / file.name  # fmt: skip
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    for name in KEPT:
        if (model.folder / name).is_dir():
            shutil.copytree(model.folder / name, folder / name, dirs_exist_ok=True)
    (folder / "config.json").write_text(dumps(_as_json(config)), encoding="utf-8")
    _write_weights(folder, model.architecture, names, tensor)


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def as_published(architecture: str, name: str, value: Tensor) -> Tensor:
    """A tensor as checkpoints of the architecture have it: some matrices as [in, out]."""
    return value.t().contiguous() if turned(architecture, name) else value


def _write_weights(
    folder: Path, architecture: str, names: Iterable[str], tensor: Callable[[str], Tensor]
) -> None:
    shards: list[list[str]] = []
    waiting: dict[str, Tensor] = {}

    def flush() -> None:
        from safetensors.torch import save_file

        save_file(waiting, folder / _shard(len(shards)), {"format": "pt"})
        shards.append(list(waiting))
        waiting.clear()

    for name in names:
        value = as_published(architecture, name, tensor(name))
        held = sum(t.numel() * t.element_size() for t in waiting.values())
        if waiting and held + value.numel() * value.element_size() > SHARD_BYTES:
            flush()
        waiting[name] = value
    flush()
    if len(shards) == 1:
        (folder / _shard(0)).rename(folder / WEIGHTS)
        return
    places = {name: _shard(index) for index, part in enumerate(shards) for name in part}
    index = {"metadata": {}, "weight_map": places}
    (folder / INDEX).write_text(dumps(index), encoding="utf-8")


def _shard(index: int) -> str:
    return f"model-{index + 1:05d}.safetensors"


def adopt(model: Model, folder: Path, note: str = "") -> Model:
    """The model that a pass wrote into `folder`; where it came from is its `origin`."""
    found = huggingface.describe(folder, model.name, model.task)
    source = Source(
        "huggingface", str(folder), huggingface.digest(found),
        (*model.source.notes, *((note,) if note else ())),
    )
    return dataclasses.replace(
        model, folder=folder, config=found.config, weights=found.weights, source=source,
        pooling=found.pooling and model.pooling, origin=model.origin or model,
    )  # fmt: skip


def taken_up(model: Model, folder: Path, stage: str) -> Model:
    """What a pass of `stage` made of the model, from its folder; a later `check` finds it too."""
    note = (folder / NOTE).read_text(encoding="utf-8")
    found = adopt(model, folder / CHECKPOINT, note)
    sources.remember(found.source.digest, folder / CHECKPOINT)
    made = Reshaped(stage, found.source.digest)
    earlier = model.reshaped
    if earlier and earlier[-1].stage == stage:
        earlier = earlier[:-1]  # several passes of one stage
    elif earlier:
        earlier = (*earlier[:-1], dataclasses.replace(earlier[-1], model=model))
    return dataclasses.replace(found, reshaped=(*earlier, made))


def parameters_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of parameters of tensors of those shapes."""
    return sum(math.prod(shape) for shape in shapes.values())
