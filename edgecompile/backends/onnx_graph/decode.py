"""Read codes, scales, floats and hyperparameters back from a sealed graph."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgecompile.backends import Decoded, Extent, ReadWhenAsked, joining, packing
from edgecompile.backends.halves import joined
from edgecompile.backends.joining import CODES, JOIN, SCALES, Rows
from edgecompile.backends.onnx_graph import activations, kernels, ort_format, storage
from edgecompile.backends.onnx_graph.weights import initializer_array
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme

NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization")  # fmt: skip


def decode(folder: Path, manifest: Mapping[str, Any]) -> Decoded:
    """Tensors under their source names; schemes are the file's own, not the manifest's.

    A row's scale that is stored for each of its blocks is taken for one where the manifest says so.
    """
    paths = manifest["engine"].get("graphs", {})
    if not paths:
        return _decoded(_graph(folder), folder, manifest)
    files = {name: str(folder / Path(path).name) for name, path in paths.items()}
    graphs = {n: onnx.load(file, load_external_data=False).graph for n, file in files.items()}
    return joined({name: _decoded(graph, folder, manifest) for name, graph in graphs.items()})


def _decoded(graph: onnx.GraphProto, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
    stored = _Stored(folder, {t.name: t for t in graph.initializer})
    tensors = {entry["name"]: entry for entry in manifest["tensors"]}
    floats = {entry["name"]: entry for entry in manifest["floats"]}
    rows = {n: entry["shape"][0] for n, entry in (tensors | floats).items() if entry["shape"]}
    places, bits = joining.rows_in(stored.headers, rows), _bits(graph)
    shared = manifest["engine"]["options"].get("shared", {})

    ranges = manifest["engine"]["options"].get("ranges", {})

    def quantized(name: str) -> QuantizedTensor:
        place = places[f"{name}.codes"]
        _expect_range(stored, place, name, ranges.get(name))
        return _tensor(stored, place, tensors[name], bits.get(name, 0))

    def dense(name: str) -> Float32:
        return joining.dense(stored.array, places, shared.get(name, name), floats[name]["shape"])

    return Decoded(
        ReadWhenAsked((n for n in tensors if f"{n}.codes" in places), quantized),
        ReadWhenAsked((n for n in floats if joining.has(places, shared.get(n, n))), dense),
        facts(graph),
    )


def _graph(folder: Path) -> onnx.GraphProto:
    if (folder / ort_format.FILE).is_file():
        return ort_format.read(folder / ort_format.FILE)
    return onnx.load(str(folder / storage.GRAPH), load_external_data=False).graph


def extents(folder: Path) -> Iterator[Extent]:
    """Every tensor of each graph and of the graphs inside it."""
    for name, graph in _graphs(folder):
        yield from _extents(name, graph, folder)


def _graphs(folder: Path) -> Iterator[tuple[str, onnx.GraphProto]]:
    """The file's graph under its name, or those of several files."""
    if (folder / ort_format.FILE).is_file() or (folder / storage.GRAPH).is_file():
        yield "the graph", _graph(folder)
        return
    for file in sorted(folder.glob("*.onnx")):
        yield file.name, onnx.load(str(file), load_external_data=False).graph


def _extents(name: str, graph: onnx.GraphProto, folder: Path) -> Iterator[Extent]:
    for at, tensor in enumerate(_tensors(graph)):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            held = np.frombuffer(tensor.raw_data, np.uint8)  # our writer leaves none but raw data
            yield Extent(tensor.name, (name, at), held)
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        data = initializer_array(tensor, folder).reshape(-1).view(np.uint8)
        yield Extent(tensor.name, (where["location"], int(where.get("offset", 0))), data)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = tensor.name or node.output[0]
                yield tensor
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


@dataclass(frozen=True)
class _Stored:
    """A graph's initializers; `array` maps one from the file."""

    folder: Path
    headers: Mapping[str, onnx.TensorProto]

    def array(self, name: str) -> NDArray[Any]:
        """The values; BadInputError where there is no such initializer."""
        if name not in self.headers:
            raise BadInputError(str(self.folder / storage.GRAPH), f"no initializer {name!r}")
        return initializer_array(self.headers[name], self.folder)


def _bits(graph: onnx.GraphProto) -> dict[str, int]:
    """Bits per tensor by the nodes that read it; 0, which fits nothing, where they disagree."""
    tables = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape"}
    bits: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        stored = node.input[1] if node.op_type == "MatMulNBits" else tables.get(node.input[0], "")
        value = next((a.i for a in node.attribute if a.name == "bits"), 4)
        for name in stored.removesuffix(CODES).split(JOIN):
            bits[name] = value if bits.get(name, value) == value else 0
    return bits


def _expect_range(
    stored: _Stored, place: Rows, name: str, expected: Sequence[float] | None
) -> None:
    """Raise where the scale and zero point of a product's input are not the manifest's."""
    names = (place.array.removesuffix(CODES) + end for end in activations.RANGE)
    found = [float(stored.array(n)) for n in names if n in stored.headers]
    if found != [float(np.float32(value)) for value in expected or ()]:
        raise BadInputError(f"{name}: range of its inputs", f"{found}", f"{expected}")


def _tensor(
    stored: _Stored, place: Rows, entry: Mapping[str, Any], bits: int
) -> QuantizedTensor:
    joint = place.array.removesuffix(CODES)
    if len(entry["shape"]) > 2:
        found = stored.array(place.array), stored.array(joint + SCALES)
        return kernels.tensor(*found, entry)
    name, (rows, columns) = entry["name"], entry["shape"]
    part = slice(place.start, place.start + rows)
    packed, scales = stored.array(place.array), stored.array(joint + SCALES)[part]
    factors = joint + activations.FACTORS
    if packed.ndim == 2 and packed.dtype == np.int8:
        given = stored.array(factors) if factors in stored.headers else None
        return activations.tensor(packed[:, part], scales, given)
    packed = packed[part]
    if bits not in (4, 8) or packed.ndim != 3 or packed.shape[0] != rows:
        raise BadInputError(
            f"{name}.codes", f"{bits} bits, shape {packed.shape}", f"4 or 8 bits, {rows} rows"
        )
    codes = packing.unpack(np.asarray(packed).reshape(rows, -1), bits)
    codes = np.ascontiguousarray(codes[:, :columns])
    by_row = entry["scheme"].endswith("-channel") and bool((scales == scales[:, :1]).all())
    group = 0 if by_row else packed.shape[2] * 8 // bits
    scales = scales[:, :1] if by_row else scales
    return QuantizedTensor(Scheme(bits, group), codes, np.array(scales, np.float32))


def facts(graph: onnx.GraphProto) -> dict[str, float]:
    """Hyperparameters that the graph states: norm epsilon, head counts, layers.

    A norm whose epsilon differs from the others' shows as the fact `norm_eps_spread`.
    """
    epsilons = [
        a.f for node in graph.node if node.op_type in NORMS
        for a in node.attribute if a.name == "epsilon"
    ]  # fmt: skip
    result: dict[str, float] = {}
    if epsilons:
        result["norm_eps"] = float(np.float32(max(epsilons)))
        result["norm_eps_spread"] = max(epsilons) - min(epsilons)
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    if attention:
        numbers = {a.name: a.i for a in attention[0].attribute if a.type == a.INT}
        result["num_hidden_layers"] = len(attention)
        result["num_attention_heads"] = numbers.get("num_heads", 0)
        result["num_key_value_heads"] = numbers.get("kv_num_heads", 0)
    return result
