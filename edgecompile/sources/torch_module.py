"""A torch module by package.module:function, which returns (module, example inputs[, card])."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile import cache
from edgecompile.config import nearest
from edgecompile.errors import UsageError
from edgecompile.model import Licence, Model, Source, Weights
from edgecompile.runtime.pictures import PictureInput
from edgecompile.sources.safetensors_header import read_header
from edgecompile.tasks import TASKS

CARD = ("task", "labels", "pictures", "licence")


def load(entry_point: str) -> Model:
    """Call the function, keep the state as safetensors in the cache, and describe it.

    A module is known only by calling its function, so `plan` does the same.
    """
    from safetensors.torch import save_model

    from edgecompile.modules import build_entry_point

    module, examples, card = build_entry_point(entry_point)
    task, pictures = _task(entry_point, card), _pictures(entry_point, card)
    place, _, function = entry_point.rpartition(":")
    where = Path(place).name if place.endswith(".py") else place  # the same in any folder
    digest = hashlib.sha256(f"{where}:{function}".encode())
    digest.update(json.dumps(dict(card), sort_keys=True).encode() if card else b"")
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    for name, array in examples.items():
        digest.update(f"{name}{array.shape}{array.dtype}".encode())

    def work(folder: Path) -> None:
        save_model(module, str(folder / "model.safetensors"))

    key = cache.key("module", modules=(__name__,), state=digest.hexdigest())
    folder, _ = cache.stage("module", key, work)
    return Model(
        function, task, folder, _config(card), Weights(read_header(folder / "model.safetensors")),
        Source("torch", entry_point, digest.hexdigest()),
        Licence(str(card.get("licence", "unknown"))),
        pictures=pictures, entry_point=entry_point,
    )  # fmt: skip


def _task(entry_point: str, card: Mapping[str, Any]) -> str:
    """The card's task; refuses what no card may say, and what a card of that task lacks."""
    if unknown := sorted(set(card) - set(CARD)):
        raise UsageError(f"{entry_point}: card", unknown[0], nearest(unknown[0], CARD))
    task = str(card.get("task", "module"))
    able = [name for name, one in TASKS.items() if one.takes in ("arrays", "picture")]
    if task not in able:
        raise UsageError(f"{entry_point}: card", f"task {task!r}", f"one of {', '.join(able)}")
    if TASKS[task].takes == "picture" and not (card.get("pictures") and card.get("labels")):
        raise UsageError(f"{entry_point}: card", f"keys {sorted(card)}", "labels and pictures")
    return task


def _pictures(entry_point: str, card: Mapping[str, Any]) -> PictureInput | None:
    if not (stated := card.get("pictures")):
        return None
    return PictureInput.from_manifest(stated, f"{entry_point}: card: pictures")


def _config(card: Mapping[str, Any]) -> dict[str, Any]:
    labels = [str(label) for label in card.get("labels", ())]
    return {"id2label": {str(at): label for at, label in enumerate(labels)}} if labels else {}
