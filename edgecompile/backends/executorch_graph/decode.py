"""Codes, scales, floats and hyperparameters from a sealed .pte file, under the source's names."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from executorch.exir import schema
from executorch.exir.scalar_type import ScalarType
from numpy.typing import NDArray

from edgecompile.backends import Decoded, ReadWhenAsked
from edgecompile.backends.executorch_graph import devices, encode
from edgecompile.backends.executorch_graph.blocks import (
    LOGITS,
    POSITIONS,
    QUERY,
    RESIDUAL,
    STREAM,
    WINDOW,
)
from edgecompile.backends.executorch_graph.decoder import ROTARY
from edgecompile.backends.executorch_graph.delegated import as_named
from edgecompile.backends.executorch_graph.distances import BUCKETS, PLACES
from edgecompile.backends.executorch_graph.layers import GELU, SCALE, SQUARES, TURN, ZERO
from edgecompile.backends.executorch_graph.pte_read import PteReader
from edgecompile.backends.executorch_graph.scope import DEVICES, FILE, XNNPACK
from edgecompile.backends.executorch_graph.sheet import EPSILON, MEAN
from edgecompile.backends.executorch_graph.t5 import HEAD_SCALE
from edgecompile.backends.executorch_graph.towers import MASK
from edgecompile.backends.joining import CODES, JOIN, SCALES
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme

PERMUTED = "nhwc:"  # before the key of a convolution's weight
DEPTHWISE = "1hwc:"  # of a depthwise one's
# Form -> axes of [out, in / groups, height, width] in the file, and those that undo it.
FORMS = {PERMUTED: ((0, 2, 3, 1), (0, 3, 1, 2)), DEPTHWISE: ((1, 2, 3, 0), (3, 0, 1, 2))}
ADDED = {EPSILON, ROTARY, POSITIONS}  # constants that are not the source's
ADDED_BY_SIZE = tuple(
    f"{name}."
    for name in (
        MEAN, SQUARES, TURN, GELU, ROTARY, STREAM, QUERY, WINDOW, ZERO, SCALE, MASK, BUCKETS,
        PLACES, HEAD_SCALE, RESIDUAL, LOGITS,
    )
)  # fmt: skip
BITS = {"xnn_datatype_qbint4": 4, "xnn_datatype_qcint4": 4, "xnn_datatype_qcint8": 8}


@dataclass(frozen=True)
class Weight:
    """A matrix that XNNPACK multiplies with: keys of its data, [out, in], scheme."""

    codes: str
    scales: str
    shape: tuple[int, int]
    scheme: Scheme


@dataclass(frozen=True)
class Floats:
    """A float32 constant of a subgraph (`key`) or of the program (`buffer`)."""

    shape: tuple[int, ...]
    key: str = ""
    buffer: int = 0
    form: str = ""  # of a convolution's weight, a key of FORMS


@dataclass(frozen=True)
class Table:
    """An embedding's constants in the program."""

    codes: schema.Tensor
    scales: schema.Tensor


@dataclass(frozen=True)
class _Row:
    """A source tensor among the rows of what is stored under `label`, from row `start` on."""

    label: str
    start: int


def decode(folder: Path, manifest: Mapping[str, Any]) -> Decoded:
    """Tensors under their source names, in the file's own schemes."""
    reader = PteReader(folder / FILE)
    device = DEVICES[manifest["engine"]["options"].get("partitioner", XNNPACK.name)]
    if device != XNNPACK:
        return devices.decode(reader, device, manifest)
    places: Mapping[str, str] = manifest["engine"]["options"].get("places", {})
    names = _names(places)
    weights, floats = _in_subgraphs(reader, names)
    tables, plain = _in_program(reader, names)
    floats = {**plain, **floats}
    rows = {e["name"]: e["shape"][0] for e in (*manifest["tensors"], *manifest["floats"])
            if e["shape"]}  # fmt: skip
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in manifest["floats"]}
    schemes = {entry["name"]: Scheme.parse(entry["scheme"]) for entry in manifest["tensors"]}
    coded, dense = _rows([*weights, *tables], rows), _rows(floats, rows)

    def quantized(name: str) -> QuantizedTensor:
        place = coded[name]
        count = rows.get(name, 1 << 62)
        found = []
        if place.label in weights:
            found.append(_weight(reader, weights[place.label], place.start, count))
        if place.label in tables:
            found.append(_table(reader, tables[place.label], weights.get(place.label)))
        found = [as_named(one, schemes.get(name)) for one in found]
        if len(found) == 2 and found[0].digest(name) != found[1].digest(name):
            raise BadInputError(reader.where, f"{name} is there twice, and differs")
        return found[0]

    def values(name: str) -> Float32:
        place = dense[name]
        whole = _floats(reader, floats[place.label])
        if JOIN in place.label:
            whole = whole[place.start : place.start + rows.get(name, len(whole))]
        shape = shapes.get(name, whole.shape)  # a vector may be [1, 1, width] in the graph
        return whole.reshape(shape) if whole.size == math.prod(shape) else whole

    return Decoded(
        ReadWhenAsked(coded, quantized), ReadWhenAsked(dense, values), facts(reader, floats)
    )


def _rows(labels: Mapping[str, Any] | list[str], rows: Mapping[str, int]) -> dict[str, _Row]:
    """Where each tensor is: `a|b` holds the rows of a, then those of b."""
    found: dict[str, _Row] = {}
    for label in labels:
        start = 0
        for name in label.split(JOIN):
            if _is_source(name):
                found[name] = _Row(label, start)
                start += rows.get(name, 0)
    return found


def _names(places: Mapping[str, str]) -> dict[str, list[str]]:
    """What a lowered file's keys hold, by the manifest: equal tensors have one key.

    A tied head's tensor has two, with a space between them.

    A weight's name is under both of its keys, as rows of equal codes may have other scales.
    """
    names: dict[str, list[str]] = {}
    for name, there in places.items():
        for key in there.split(" "):
            if name.endswith(SCALES) and not key.startswith("#"):
                continue
            if name.endswith(CODES) and not key.startswith("#"):
                scales = places[name.removesuffix(CODES) + SCALES].split(" ")[-1]
                key = f"{key} {scales}"
            names.setdefault(key, []).append(name)
    return names


def _is_source(name: str) -> bool:
    """Whether a constant is a tensor of the source, not one that the graph adds."""
    return not name.startswith(ADDED_BY_SIZE) and name not in ADDED


def _in_subgraphs(
    reader: PteReader, names: Mapping[str, list[str]]
) -> tuple[dict[str, Weight], dict[str, Floats]]:
    """Constants of XNNPACK's subgraphs by label: their key's without digest, or `names`'."""
    weights: dict[str, Weight] = {}
    floats: dict[str, Floats] = {}
    for graph in reader.subgraphs:
        keys = [entry["named_key"] for entry in graph["constant_data"]]
        for value in graph["xvalues"]:
            body = value["xvalue_union"]
            tensor = body.get("tensor_value", body)
            if not tensor["constant_buffer_idx"]:
                continue
            key, dims = keys[tensor["constant_buffer_idx"]], tuple(tensor["dims"])
            if "tensor_value" not in body:
                for label in _labels(names, key):
                    floats[label] = Floats(dims, key)
                for form in FORMS:
                    for label in names.get(form + key, []):
                        floats[label] = Floats(dims, key, form=form)
                continue
            quant, bits = body["quant_params"], BITS[tensor["datatype"]]
            scheme = Scheme(bits, quant.get("group_size", 0))
            scales = keys[quant["scale_buffer_idx"]]
            for label in _labels(names, key, f"{key} {scales}"):
                found = Weight(key, scales, (dims[0], dims[1]), scheme)
                weights[label.removesuffix(CODES)] = found
    return weights, floats


def _labels(names: Mapping[str, list[str]], key: str, place: str = "") -> list[str]:
    """Names of what a key holds: the manifest's, or our own files' key without its digest."""
    if names:
        return names.get(place or key, [])
    return [key.partition("#")[0]]


def _in_program(
    reader: PteReader, names: Mapping[str, list[str]]
) -> tuple[dict[str, Table], dict[str, Floats]]:
    """Constants that the program's own operators read, by name."""
    tensors = {}
    for tensor in reader.constants():
        info = tensor.extra_tensor_info
        name = info.fully_qualified_name if info else None
        for one in [name] if name else names.get(f"#{tensor.data_buffer_idx}", []):
            tensors[one] = tensor
    tables = {
        name.removesuffix(CODES): Table(tensor, tensors[name.removesuffix(CODES) + SCALES])
        for name, tensor in tensors.items() if name.endswith(CODES)
    }  # fmt: skip
    plain = {
        name: Floats(tuple(tensor.sizes), buffer=tensor.data_buffer_idx)
        for name, tensor in tensors.items() if not name.endswith((CODES, SCALES))
    }  # fmt: skip
    return tables, plain


def _weight(reader: PteReader, weight: Weight, start: int, count: int) -> QuantizedTensor:
    rows, columns = weight.shape
    packed = reader.data(weight.codes).reshape(rows, columns * weight.scheme.bits // 8)
    kind = np.uint16 if weight.scheme.group_size else np.float32
    scales = _aligned(reader.data(weight.scales), kind).reshape(rows, -1)
    part = slice(start, start + count)
    return encode.linear_codes(packed[part], scales[part], weight.scheme)


def _table(reader: PteReader, table: Table, head: Weight | None) -> QuantizedTensor:
    """A look-up's codes; those that a product reads too are in the product's order."""
    at = table.codes.data_buffer_idx
    shared = head is not None and reader.constant_at(at) == reader.data_at(head.codes)
    kind = np.uint8 if table.codes.scalar_type == ScalarType.BYTE else np.int8
    codes = reader.constant(at, math.prod(table.codes.sizes))
    count = 4 * math.prod(table.scales.sizes)
    scales = _aligned(reader.constant(table.scales.data_buffer_idx, count), np.float32)
    columns = table.codes.sizes[1] * (2 if kind is np.uint8 else 1)
    shaped = codes.view(kind).reshape(table.codes.sizes)
    kept = scales.reshape(table.scales.sizes)
    return encode.embedding_codes(shaped, kept, columns, as_linear=shared)


def _floats(reader: PteReader, floats: Floats) -> Float32:
    count = math.prod(floats.shape)
    data = reader.data(floats.key) if floats.key else reader.constant(floats.buffer, 4 * count)
    values = _aligned(data, np.float32)
    if floats.form:
        return np.array(values.reshape(floats.shape).transpose(FORMS[floats.form][1]))
    return np.array(values.reshape(-1, *floats.shape[1:]) if floats.shape[0] > 1 else values)


def _aligned(data: NDArray[np.uint8], kind: Any) -> NDArray[Any]:
    return np.frombuffer(data.tobytes(), kind)


def facts(reader: PteReader, floats: Mapping[str, Floats]) -> dict[str, float]:
    """Norm epsilon, layers and heads, as the graph computes with them.

    Of several methods each one's epsilon behind its name too (`text.norm_eps`), for configs of a
    part a graph.
    """
    stored = {
        float(_floats(reader, place).reshape(-1)[0])
        for name, place in floats.items() if name == EPSILON
    }  # fmt: skip
    epsilons = set(stored)
    found: dict[str, float] = {}
    plans = reader.program.execution_plan
    for plan in plans:
        own = _norm_epsilons(plan)
        found |= _shared(own or stored, f"{plan.name}.") if len(plans) > 1 else {}
        epsilons |= own
        for call, arguments in _calls(plan):
            if call == "llama::sdpa_with_kv_cache":
                found["num_hidden_layers"] = found.get("num_hidden_layers", 0) + 1
                query, cache = (plan.values[arguments[at]].val for at in (0, 3))
                found["num_attention_heads"] = query.sizes[2]
                found["num_key_value_heads"] = cache.sizes[2]
    return found | _shared(epsilons)


def _norm_epsilons(plan: schema.ExecutionPlan) -> set[float]:
    return {
        float(np.float32(plan.values[arguments[4]].val.double_val))
        for call, arguments in _calls(plan) if call == "aten::native_layer_norm"
    }  # fmt: skip


def _shared(epsilons: set[float], before: str = "") -> dict[str, float]:
    if not epsilons:
        return {}
    largest = max(epsilons)
    spread = largest - min(epsilons)
    return {f"{before}norm_eps": largest, f"{before}norm_eps_spread": spread}


def _calls(plan: schema.ExecutionPlan) -> Iterator[tuple[str, list[int]]]:
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if isinstance(call, schema.KernelCall):
                yield plan.operators[call.op_index].name, call.args
