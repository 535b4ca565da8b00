"""The two files of a bundle: native code, and the tensors that it computes with."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from edgecompile.backends import Port
from edgecompile.backends.aotinductor_graph import package
from edgecompile.backends.aotinductor_graph.coded import WEIGHTS, Coded, find
from edgecompile.backends.aotinductor_graph.levels import LEVELS
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import Graph, graph, with_axes_if_possible
from edgecompile.host import platform_name
from edgecompile.model import Model
from edgecompile.modules import flat_outputs
from edgecompile.passes import Progress
from edgecompile.reference import Reference
from edgecompile.runtime.aotinductor_engine import TENSORS
from edgecompile.structure import filled_in


@dataclass(frozen=True)
class Written:
    """What the manifest says of the files."""

    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    options: Mapping[str, Any]
    unused: Mapping[str, str]


def write(model: Model, folder: Path, device: str, progress: Progress) -> Written:
    """Compile, then keep the tensors that the code reads; the rest are `unused`."""
    progress("compile", 0, 2)
    level, file = LEVELS[platform_name()], folder / package.FILE
    reference = _reference(model)
    one = graph(reference)
    found = find(reference, one.module)
    outputs = _outputs(one)

    def compiled(one: Graph) -> tuple[Graph, dict[str, torch.Tensor]]:
        coded = Coded(one.module, model, found, tuple(one.given))
        return one, package.write(one, coded, device, level, file)

    one, constants = with_axes_if_possible(compiled, one, model.task)
    progress("write file", 1, 2)
    (folder / TENSORS).write_bytes(save(constants))
    progress("write file", 2, 2)
    held = {name.removeprefix(WEIGHTS) for name in _sources(constants, model)}
    shared = {name: held_by for name, held_by in found.shared.items() if held_by in held}
    absent = [name for name in model.weights if name not in held and name not in shared]
    _refuse_changed([name for name in absent if name in model.quantized])
    options: dict[str, Any] = {"level": level.name, **_capability(device)}
    if shared:
        options["shared"] = dict(sorted(shared.items()))
    unused = dict.fromkeys(absent, "not part of the exported graph")
    return Written(package.FILE, tuple(_inputs(one)), tuple(_ports(one, outputs)), options, unused)


def _reference(model: Model) -> Reference:
    """With torch's one operator of attention, where the architecture has it.

    Not where layers see a window: a padded place that sees nothing may give NaN in that operator.
    """
    windows = not model.entry_point and "sliding_attention" in (
        getattr(filled_in(model), "layer_types", None) or ()
    )
    if model.entry_point or windows:
        return Reference(model)
    try:
        return Reference(model, "sdpa")
    except UnsupportedError:
        return Reference(model)


def _sources(constants: Mapping[str, Any], model: Model) -> Iterator[str]:
    for name in model.weights:
        stored = WEIGHTS + name + (".codes" if name in model.quantized else "")
        if stored in constants:
            yield name


def _refuse_changed(names: list[str]) -> None:
    if names:
        raise UnsupportedError(
            package.WHERE, f"the compiled code does not read {names[0]}", "every quantized tensor",
            f"--set 'quantize.skip=[\"{names[0]}\"]'",
        )  # fmt: skip


def _capability(device: str) -> dict[str, str]:
    """Of the GPU whose kernels these are."""
    if device != "cuda":
        return {}
    major, minor = torch.cuda.get_device_capability()
    return {"compute_capability": f"{major}.{minor}"}


def _outputs(one: Graph) -> list[torch.Tensor]:
    with torch.no_grad():
        return flat_outputs(one.module(**one.given))


def _inputs(one: Graph) -> Iterator[Port]:
    for name, value in one.given.items():
        free = one.axes.get(name, {})
        shape = tuple(free.get(axis, size) for axis, size in enumerate(value.shape))
        yield Port(name, str(value.numpy().dtype), shape)


def _ports(one: Graph, outputs: list[torch.Tensor]) -> Iterator[Port]:
    """An output's axis of an input's varying size varies with it."""
    sizes = {
        one.given[name].shape[axis]: called
        for name, axes in one.axes.items() for axis, called in axes.items()
    }  # fmt: skip
    for name, value in zip(one.outputs, outputs, strict=True):
        whole = enumerate(value.shape)
        shape = tuple(sizes.get(size, size) if axis < 2 else size for axis, size in whole)
        yield Port(name, str(np.dtype(value.numpy().dtype)), shape)
