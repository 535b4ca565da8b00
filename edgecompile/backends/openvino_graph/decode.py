"""Read codes, scales, floats and hyperparameters back from a sealed IR."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends import Decoded, Extent, ReadWhenAsked, joining
from edgecompile.backends.decoders import QKV
from edgecompile.backends.halves import joined
from edgecompile.backends.joining import CODES, SCALES, Rows
from edgecompile.backends.openvino_graph import compressed, ir, rewrite
from edgecompile.backends.openvino_graph.decoder_graph import FREQUENCIES, SPLIT
from edgecompile.backends.openvino_graph.storage import DATA
from edgecompile.errors import BadInputError
from edgecompile.numerics.ranges import Range
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme

BITS = {"i4": 4, "i8": 8}


def decode(folder: Path, manifest: Mapping[str, Any]) -> Decoded:
    """Tensors under their source names; schemes are the file's own, not the manifest's."""
    paths = manifest["engine"].get("graphs", {})
    if not paths:
        return _decoded(ir.Graph(folder), manifest)
    graphs = {name: ir.Graph(folder, Path(path).name) for name, path in paths.items()}
    return joined({name: _decoded(graph, manifest) for name, graph in graphs.items()})


def _decoded(graph: ir.Graph, manifest: Mapping[str, Any]) -> Decoded:
    tensors = {entry["name"]: entry for entry in manifest["tensors"]}
    floats = {entry["name"]: entry for entry in manifest["floats"]}
    rows = {n: entry["shape"][0] for n, entry in (tensors | floats).items() if entry["shape"]}
    places = joining.rows_in(graph.constants, rows)
    options = manifest["engine"]["options"]
    shared, ranges = options.get("shared", {}), options.get("ranges", {})

    def quantized(name: str) -> QuantizedTensor:
        place = places[name + CODES]
        found = _tensor(graph, place, tensors[name])
        return _with_inputs(graph, place, found, ranges.get(name))

    def dense(name: str) -> Float32:
        return joining.dense(graph.array, places, shared.get(name, name), floats[name]["shape"])

    return Decoded(
        ReadWhenAsked((n for n in tensors if n + CODES in places), quantized),
        ReadWhenAsked((n for n in floats if joining.has(places, shared.get(n, n))), dense),
        facts(graph),
    )


def extents(folder: Path) -> Iterator[Extent]:
    """Every constant of each graph."""
    for file in sorted(folder.glob("*.xml")):
        graph = ir.Graph(folder, file.name)
        for layer in graph.of_kind("Const"):
            offset, data = graph.stored(layer)
            yield Extent(layer.name, (DATA, offset), data)


def _tensor(graph: ir.Graph, place: Rows, entry: Mapping[str, Any]) -> QuantizedTensor:
    """The codes and scales of one tensor, as the nodes that read them use them."""
    joint, rows = place.array.removesuffix(CODES), entry["shape"][0]
    part = slice(place.start, place.start + rows)
    layer = graph.constants[place.array]
    bits, shape = BITS.get(layer.attributes.get("element_type", ""), 0), graph.shape(layer)
    kernels = len(entry["shape"]) > 2  # a convolution's, in the source's own shape
    grouped = len(shape) == 3 and not kernels
    _expect_dequantized(graph, layer, joint, None if kernels else grouped)
    scales = graph.array(joint + SCALES)
    if kernels:
        whole, expected = shape == tuple(entry["shape"]), (shape[0], *[1] * (len(shape) - 1))
    else:
        whole, expected = len(shape) in (2, 3) and part.stop <= shape[0], (*shape[:-1], 1)
    if not (bits and whole) or scales.shape != expected:
        raise BadInputError(
            place.array, f"{bits} bits, shape {shape}, scales {scales.shape}",
            "4 or 8 bits, a scale for each group or row",
        )  # fmt: skip
    stored = graph.array(place.array)[part].reshape(rows, -1)
    codes = compressed.unpacked(stored) if bits == 4 else np.array(stored)
    kept = np.array(scales[part], np.float32).reshape(rows, -1)
    return QuantizedTensor(Scheme(bits, shape[2] if grouped else 0), codes, kept)


def _expect_dequantized(graph: ir.Graph, codes: ir.Layer, joint: str, grouped: bool | None) -> None:
    """Raise unless the codes go through Convert and Multiply by their scales, and nothing else.

    What follows joins the groups of a row; after kernels (`grouped` None) it may be anything.
    """
    converts = graph.readers(codes)
    products = [node for one in converts for node in graph.readers(one)]
    scales = [graph.source(one).name for node in products for one in graph.sources(node)
              if one.kind == "Convert" and one not in converts]  # fmt: skip
    shapes = [node.kind for one in products for node in graph.readers(one)]
    found = [node.kind for node in (*converts, *products)], scales
    straight = found == (["Convert", "Multiply"], [joint + SCALES])
    if not straight or (grouped is not None and grouped != (shapes == ["Reshape"])):
        raise BadInputError(codes.name, f"{found} then {shapes}", f"codes * {joint}{SCALES}")


def _with_inputs(
    graph: ir.Graph, place: Rows, tensor: QuantizedTensor, expected: Sequence[float] | None
) -> QuantizedTensor:
    """With the factors that its product's input takes; raise where the range is another."""
    wanted = _bounds(expected) * 2 if expected else []
    factors = set()
    for value in _inputs(graph, place.array.removesuffix(CODES)):
        found: list[float] = []
        if value.kind == "FakeQuantize":
            found = [float(graph.array(end.name)) for end in graph.sources(value)[1:]]
            value = graph.source(value)
        if found != wanted:
            raise BadInputError(f"{place.array}: range of its inputs", f"{found}", f"{wanted}")
        scaled = graph.sources(value) if value.name.endswith(rewrite.SCALED) else []
        factors.add(next((n.name for n in scaled if n.name.endswith(rewrite.FACTORS)), ""))
    if len(factors) > 1:
        raise BadInputError(place.array, f"factors {sorted(factors)}", "the same everywhere")
    name = "".join(factors)
    inputs = np.array(graph.array(name), np.float32) if name else None
    return QuantizedTensor(tensor.scheme, tensor.codes, tensor.scales, inputs)


def _inputs(graph: ir.Graph, name: str) -> Iterator[ir.Layer]:
    """What is multiplied with a weight, through its transpose where there is one."""
    readers = graph.readers(graph.layer(name))
    turned = [reader for node in readers if node.kind == "Transpose"
              for reader in graph.readers(node)]  # fmt: skip
    for node in (*readers, *turned):
        if node.kind == "MatMul":
            yield graph.source(node)


def _bounds(stated: Sequence[float]) -> list[float]:
    scale, zero = stated
    return [float(end) for end in rewrite.bounds(Range(scale, int(zero)))]


def facts(graph: ir.Graph) -> dict[str, float]:
    """Hyperparameters that the graph states: norm epsilon, heads, layers, rope's base.

    A norm whose epsilon differs from the others' shows as the fact `norm_eps_spread`.
    """
    epsilons = [float(node.attributes["eps"]) for node in graph.of_kind("MVN")]
    epsilons += [value for root in graph.of_kind("Sqrt") for value in _epsilon(graph, root)]
    result: dict[str, float] = {}
    if epsilons:
        result["norm_eps"] = float(np.float32(max(epsilons)))
        result["norm_eps_spread"] = max(epsilons) - min(epsilons)
    return result | (_decoder_facts(graph) if graph.of_kind("ReadValue") else {})


def _epsilon(graph: ir.Graph, root: ir.Layer) -> Iterator[float]:
    """What is added to a mean below a root: RMSNorm's epsilon; nothing for other roots."""
    terms = graph.sources(graph.source(root))
    if [node.kind for node in terms] == ["ReduceMean", "Const"]:
        yield float(graph.array(terms[1].name))


def _decoder_facts(graph: ir.Graph) -> dict[str, float]:
    """Layers by the states; heads by how q and k are cut; rope's base where it is not scaled."""
    found = {"num_hidden_layers": len(graph.of_kind("ReadValue")) / 2}
    cuts = (("num_attention_heads", QKV[0]), ("num_key_value_heads", QKV[1]))
    for fact, name in cuts:
        shapes = [graph.source(node, 1) for node in graph.of_kind("Reshape")
                  if node.name.endswith(name + SPLIT)]  # fmt: skip
        heads = {int(graph.array(shape.name)[2]) for shape in shapes}
        found[fact] = heads.pop() if len(heads) == 1 else math.nan
    tables = {"rope_theta": FREQUENCIES, "rope_local_base_freq": f"{FREQUENCIES}.1"}
    for fact, name in tables.items():
        if name in graph.names and (base := _base(graph.array(name))):
            found[fact] = base
    return found


def _base(frequencies: NDArray[Any]) -> float:
    """What rope's inverse frequencies are powers of; 0 where they are scaled."""
    values = frequencies.reshape(-1).astype(np.float64)
    steps = np.arange(len(values)) / len(values)
    base = float(values[-1] ** (-1 / steps[-1])) if len(steps) > 1 else math.nan
    return base if np.allclose(values, base**-steps, rtol=1e-5, atol=0) else 0.0
