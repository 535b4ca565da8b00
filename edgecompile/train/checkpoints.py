"""Where a run stands, in a folder that is whole or absent: written, flushed, then renamed."""
from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile import cache
from edgecompile.errors import BadInputError, UsageError
from edgecompile.train.parallel import like, whole

PREFIX = "step-"
STATE = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # AdamW's, by torch's names


@dataclass(frozen=True)
class Checkpoint:
    """A run after `state["step"]` steps: tensors by name, whole; moments as `name@exp_avg`."""

    state: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    best: Mapping[str, Tensor]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters with a gradient, and buffers; whole, on the processor."""
    fixed = {name for name, one in module.named_parameters() if not one.requires_grad}
    kept = {name: tensor for name, tensor in module.state_dict().items() if name not in fixed}
    once = _without_repeats(kept)
    return {name: whole(once[name]).detach().cpu().clone().contiguous() for name in once}


def _without_repeats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors under their first name alone."""
    seen: set[tuple[int, int]] = set()
    found = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        place = (local.data_ptr(), local.numel())
        if place not in seen or not local.numel():
            found[name] = tensor
            seen.add(place)
    return found


def set_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put `weights_of` another module of the same kind into this one."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(like(own[name], tensor))


def moments_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `name@exp_avg` and so on, whole."""
    found = {}
    for name, parameter in module.named_parameters():
        state = optimizer.state.get(parameter, {})
        for kind in (kind for kind in MOMENTS if kind in state):
            found[f"{name}@{kind}"] = whole(state[kind]).detach().cpu().clone().contiguous()
    return found


def set_moments(
    module: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]
) -> None:
    """Put `moments_of` a run into another's optimizer."""
    for name, parameter in module.named_parameters():
        for kind in (kind for kind in MOMENTS if f"{name}@{kind}" in moments):
            given = moments[f"{name}@{kind}"]
            kept = given if kind == "step" else like(parameter.detach(), given)
            optimizer.state[parameter][kind] = kept


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write one checkpoint into `folder`; when it has its name, older ones go."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{PREFIX}{checkpoint.state['step']:09d}"
    with cache.private_folder(folder, "checkpoint") as staging:
        save_file(dict(checkpoint.weights), staging / "weights.safetensors")
        save_file(dict(checkpoint.moments), staging / "moments.safetensors")
        if checkpoint.best:
            save_file(dict(checkpoint.best), staging / "best.safetensors")
        text = json.dumps(checkpoint.state, indent=1, sort_keys=True)
        (staging / STATE).write_text(text, encoding="utf-8")
        cache.publish(staging, final)
    _flush(folder)
    for old in sorted(folder.glob(f"{PREFIX}*")):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Inside, a full disk is a ResourceError (7), whoever wrote to it."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise cache.disk_error(error, where) from error
    except SafetensorError as error:  # its message ends with the system's number
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise cache.disk_error(OSError(int(number[1]), str(error)), where) from error


def _flush(folder: Path) -> None:
    """Flush the folder itself, which holds the new name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    found = sorted(path for path in folder.glob(f"{PREFIX}*") if (path / STATE).is_file())
    return found[-1] if found else None


def remove_all(folder: Path) -> None:
    """Remove every checkpoint in `folder`."""
    for path in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def step_of(path: Path) -> int:
    """How many steps a checkpoint's run had done, by its name."""
    return int(path.name.removeprefix(PREFIX))


def load(path: Path, fingerprint: str) -> Checkpoint:
    """Read a checkpoint; UsageError where it is of another run (options, data or model)."""
    from safetensors.torch import load_file

    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        names = ("weights", "moments", "best")
        files = {name: path / f"{name}.safetensors" for name in names}
        tensors = {n: load_file(file) if file.is_file() else {} for n, file in files.items()}
    except Exception as error:  # safetensors has an error class of its own
        way_out = "remove the folder and train from the start"
        raise BadInputError(str(path), str(error), "a whole checkpoint", way_out) from error
    if state.get("fingerprint") != fingerprint:
        raise UsageError(
            str(path), "a checkpoint of other options, data or another model",
            way_out="give the same as before, or --overwrite to start anew",
        )  # fmt: skip
    return Checkpoint(state, **tensors)
