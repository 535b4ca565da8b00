"""What we do not draw, plain modules and other devices, by torch.export and ExecuTorch's lowering.

Slow: each of XNNPACK's passes traces each subgraph again (minutes for a MiniLM), so what we know
is drawn by the writers of this folder (scope.refusal). Codes go in as torchao's tensors and are not
quantized again. Source tensors are found again in the file by content.
"""
from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    EdgeProgramManager,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from executorch.exir.lowered_backend_module import get_lowered_submodules
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecompile.backends import Port
from edgecompile.backends.executorch_graph import batch_norms, devices, encode
from edgecompile.backends.executorch_graph.batch_norms import Folds
from edgecompile.backends.executorch_graph.decode import FORMS
from edgecompile.backends.executorch_graph.once import store_once
from edgecompile.backends.executorch_graph.pte_read import PteReader
from edgecompile.backends.executorch_graph.scope import ANSWER, FILE, XNNPACK, Device
from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import PORT_AXES, Axes, Graph, graph, graphs, unread
from edgecompile.model import Model
from edgecompile.modules import flat_outputs
from edgecompile.numerics.schemes import Float32, QuantizedTensor
from edgecompile.numerics.swap import owners, parameter_names
from edgecompile.reference import Reference
from edgecompile.tasks import PAIRS, TASKS, generates

METHOD = "forward"
BATCH = "batch"  # the axis of many texts or pictures


@dataclass(frozen=True)
class Lowered:
    """What was written; `places`: a source tensor -> the key of its data, or `#number`."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    places: Mapping[str, str]
    unused: Mapping[str, str]
    folded: Mapping[str, Float32] = field(default_factory=dict)  # what is there for a tensor


class _OneText(nn.Module):
    """forward(input_ids [1, length]): all tokens count, so the mask is ones."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: Tensor) -> Tensor:
        """The body's answer for one text."""
        found: Tensor = self.body(input_ids, torch.ones_like(input_ids))
        return found


class _OnePair(nn.Module):
    """forward(input_ids, token_type_ids), both [1, length]: all tokens count."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """The body's answer for one pair of texts."""
        found: Tensor = self.body(input_ids, torch.ones_like(input_ids), token_type_ids)
        return found


def write(model: Model, folder: Path, longest: int, device: Device = XNNPACK) -> Lowered:
    """Write model.pte; `longest` is the limit of a text in tokens."""
    with Reference(model).quantized({}, model.replaced) as reference:
        one = _graph(reference)
        inputs, outputs = _ports(one)
        folded = device == XNNPACK and _has_norms(reference)
        folds = batch_norms.fold(reference, one) if folded else Folds()
        _put_codes(reference, model, "int8_asym_per_token" if device == XNNPACK else None)
        length = torch.export.Dim("length", min=1, max=longest)
        data = _lower({METHOD: one}, {"length": length}, device)
    (folder / FILE).write_bytes(data)
    reader = PteReader(folder / FILE)
    unused = dict.fromkeys(reference.unused, "not part of the exported graph") | folds.gone
    written = replace(model, replaced={**model.replaced, **folds.values})
    if device == XNNPACK:
        places, lost = _places(reader, written, unused)
    else:
        used = [name for name in model.weights if name not in unused]
        places, lost = devices.constants(reader, device).places(written, used, device.precision)
    _refuse_lost(lost)
    return Lowered(inputs, outputs, places, unused, folds.values)


def _has_norms(reference: Reference) -> bool:
    return any(isinstance(module, batch_norms.Norm) for module in reference.body.modules())


def _refuse_lost(lost: Sequence[str]) -> None:
    if lost:
        raise UnsupportedError(
            "executorch backend", f"{lost[0]} is not in the lowered file as it was given",
            "tensors that ExecuTorch's passes leave alone", "--target cpu",
        )  # fmt: skip


def write_several(model: Model, folder: Path, longest: int) -> Lowered:
    """The same with a method a graph; `longest` of a text, or of a source and an answer."""
    with Reference(model).quantized({}, model.replaced) as reference:
        several = [_single(one) for one in graphs(reference)]
        ports = (_ports(one, PORT_AXES[model.task]) for one in several)
        inputs, outputs = (sum(side, ()) for side in zip(*ports, strict=True))
        _put_codes(reference, model, "int8_asym_per_token")
        new = ANSWER if generates(model.task) else longest
        most = {"source_length": longest, "length": new, "past_length": longest + 1}
        sizes = {name: torch.export.Dim(name, min=1, max=size) for name, size in most.items()}
        data = _lower({one.name: one for one in several}, sizes, XNNPACK)
    (folder / FILE).write_bytes(data)
    store_once(folder / FILE)
    unused = dict.fromkeys(reference.unused, "not part of the exported graph") | unread(model)
    places, lost = _places(PteReader(folder / FILE), model, unused)
    _refuse_lost(lost)
    return Lowered(inputs, outputs, places, unused)


def _single(one: Graph) -> Graph:
    """The same for one text or picture a call."""
    batched = {name for name, axes in one.axes.items() if axes.get(0) == BATCH}
    given = {name: one.given[name][: 1 if name in batched else None] for name in one.given}
    axes = {n: {at: size for at, size in kept.items() if size != BATCH}
            for n, kept in one.axes.items()}  # fmt: skip
    return replace(one, given=given, axes=axes)


def _graph(reference: Reference) -> Graph:
    """What one call answers: one text of any length, one picture, a module's own example."""
    whole = graph(reference)
    takes = TASKS[reference.model.task].takes
    if takes == "text":
        names = ["input_ids"]
        if reference.model.task in PAIRS and "token_type_ids" in whole.given:
            names.append("token_type_ids")
        module = (_OnePair if len(names) > 1 else _OneText)(whole.module).eval()
        ids = {name: whole.given[name][:1] for name in names}
        return Graph(module, ids, {name: {1: "length"} for name in names}, whole.outputs)
    if takes == "picture":
        whole = replace(whole, given={name: value[:1] for name, value in whole.given.items()})
    return whole.fixed


def _ports(one: Graph, known: Axes | None = None) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs as the manifest lists them; `known` axes of outputs, of several graphs."""
    with torch.inference_mode():
        values = flat_outputs(one.module(**one.given))
    inputs = tuple(
        Port(name, _dtype(value), _shape(value, one.axes.get(name, {})))
        for name, value in one.given.items()
    )
    named = zip(one.outputs, values, strict=True)
    free = {size for axes in one.axes.values() for size in axes.values()}
    # A row a token: as many as the text has.
    per_token = {1: "length"} if one.axes else {}

    def axes(name: str, value: Tensor) -> Mapping[int, str]:
        if known is None:
            return per_token if value.ndim > 2 else {}
        return {at: size for at, size in known[name].items() if size in free}

    return inputs, tuple(
        Port(name, _dtype(value), _shape(value, axes(name, value))) for name, value in named
    )


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _shape(value: Tensor, free: Mapping[int, str]) -> tuple[int | str, ...]:
    return tuple(free.get(axis, size) for axis, size in enumerate(value.shape))


def _put_codes(reference: Reference, model: Model, activations: str | None) -> None:
    """Codes in place of the weights of linears and embeddings; how the linears' inputs round."""
    holders = owners(reference.body)
    weights = {
        source: reference.body.get_parameter(name)
        for source, name in parameter_names(reference.body, model.quantized).items()
    }
    for source, weight in weights.items():
        for owner in holders[id(weight)]:  # several where a head is tied to the embedding
            leaf = next(n for n, p in owner.named_parameters(recurse=False) if p is weight)
            rounding = activations if isinstance(owner, nn.Linear) else None
            codes = _codes(model.quantized[source], rounding)
            setattr(owner, leaf, nn.Parameter(codes, requires_grad=False))
    for child in reference.body.modules():
        if isinstance(child, nn.Embedding):
            child.padding_idx = None  # its quantized look-up has none


def _codes(tensor: QuantizedTensor, rounding: str | None) -> Any:
    from torchao.quantization import IntxUnpackedToInt8Tensor

    group = tensor.codes.shape[1] // tensor.scales.shape[1]
    scales = torch.from_numpy(np.array(tensor.scales))
    return IntxUnpackedToInt8Tensor(
        torch.from_numpy(np.array(tensor.codes)), scales,
        torch.zeros_like(scales, dtype=torch.int8), getattr(torch, f"int{tensor.scheme.bits}"),
        (1, group), torch.float32, rounding,
    )  # fmt: skip


def _lower(methods: Mapping[str, Graph], sizes: Mapping[str, Any], device: Device) -> bytes:
    """A program of graphs by method; `sizes` are the Dims of those that vary, by name."""
    try:
        with quiet():
            exported = {name: _exported(one, sizes) for name, one in methods.items()}
            edge = to_edge_transform_and_lower(exported, partitioner=_partitioners(device))
            _settle(edge, device)
            made = edge.to_executorch(ExecutorchBackendConfig(do_quant_fusion_and_const_prop=True))
            return bytes(made.buffer)
    except Exception as error:  # the exporter's classes share no base but Exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedError(
            "executorch backend", f"ExecuTorch cannot lower this module: {lines[0][:300]}",
            way_out="--target cpu, or avoid the operator it names",
        ) from error  # fmt: skip


def _exported(one: Graph, sizes: Mapping[str, Any]) -> torch.export.ExportedProgram:
    shapes = {n: {at: sizes[name] for at, name in axes.items()} for n, axes in one.axes.items()}
    return torch.export.export(one.module, (), dict(one.given), dynamic_shapes=shapes or None)


def _partitioners(device: Device) -> list[Any]:
    if device != XNNPACK:
        return [devices.partitioner(device)]
    dynamic = ConfigPrecisionType.DYNAMIC_QUANT
    return [
        XnnpackPartitioner(config_precisions=dynamic, per_op_mode=True), XnnpackPartitioner()
    ]  # fmt: skip


def _settle(edge: EdgeProgramManager, device: Device) -> None:
    """The same bytes from the same module, whatever the device's exporter drew."""
    if device == XNNPACK:
        return
    for _, lowered, _ in get_lowered_submodules(edge.exported_program().graph_module):
        lowered._processed_bytes = devices.settled(lowered.processed_bytes, device)


def _places(
    reader: PteReader, model: Model, unused: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Where each source tensor's data are, by SHA-256 of what they should be; what is lost."""
    known: dict[str, list[str]] = {}
    for digest, place in _digests(reader):
        known.setdefault(digest, []).append(place)
    places: dict[str, str] = {}
    lost = []
    for source in model.weights:
        if source in unused:
            continue
        wanted = _wanted(model, source)
        found = {end: known[digest] for end, digest in wanted.items() if digest in known}
        if ".codes" in found and ".scales" in found:
            places |= {source + end: _both(there) for end, there in found.items() if end}
        elif "" in found:
            places[source] = found[""][-1]
        elif form := next((form for form in FORMS if form in found), ""):
            places[source] = form + found[form][-1]
        else:
            lost.append(source)
    return places, lost


def _both(there: Sequence[str]) -> str:
    """A tied head's codes are the program's constant and XNNPACK's data: the two, with a space."""
    own = [place for place in there if place.startswith("#")]
    named = [place for place in there if not place.startswith("#")]
    return " ".join((*own[-1:], *named[-1:]))


def _wanted(model: Model, source: str) -> dict[str, str]:
    """Digests of a tensor's data in each form that the file may have."""
    if source not in model.quantized:
        values = model.dense(source)
        wanted = {"": _digest(values)}
        if values.ndim == 3:  # XNNPACK's convolutions have a height: [out, in, 1, size]
            values = values[:, :, None]
        if values.ndim == 4:
            wanted |= {
                form: _digest(values.transpose(axes)) for form, (axes, _) in FORMS.items()
            }
        return wanted
    tensor = model.quantized[source]
    codes, scales = _forms(tensor, source)
    return {".codes": _digest(codes), ".scales": _digest(scales)}


def _forms(tensor: QuantizedTensor, source: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A weight's arrays, or an embedding's where XNNPACK would not multiply with it."""
    if "embed" in source:
        return encode.embedding(tensor)
    return encode.linear(tensor, source)


def _digests(reader: PteReader) -> Iterator[tuple[str, str]]:
    """SHA-256 of all data in the file -> their key, or `#number` for the program's constants."""
    for key in reader.named:
        yield hashlib.sha256(reader.data(key).data).hexdigest(), key
    for tensor in reader.constants():
        place = reader.constant(tensor.data_buffer_idx, reader.bytes_of(tensor))
        yield hashlib.sha256(place.data).hexdigest(), f"#{tensor.data_buffer_idx}"


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
