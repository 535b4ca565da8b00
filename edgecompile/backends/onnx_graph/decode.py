"""Read codes, scales, floats and hyperparameters back from a sealed graph."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgecompile.backends import Decoded
from edgecompile.backends.onnx_graph import storage
from edgecompile.backends.onnx_graph.weights import initializer_array
from edgecompile.errors import BadInputError
from edgecompile.numerics.schemes import Float32, Int8, QuantizedTensor, Scheme

NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization")  # fmt: skip


def decode(folder: Path, manifest: Mapping[str, Any]) -> Decoded:
    """Tensors under their source names; schemes are the file's own, not the manifest's."""
    proto = onnx.load(str(folder / storage.GRAPH), load_external_data=False)
    found = {t.name: initializer_array(t, folder) for t in proto.graph.initializer}
    bits = _bits(proto.graph)
    quantized: dict[str, QuantizedTensor] = {}
    for entry in manifest["tensors"]:
        name, shape = entry["name"], tuple(entry["shape"])
        if f"{name}.codes" in found:
            quantized[name] = _tensor(found, name, shape, bits.get(name, 0))
    floats = dict(_floats(found, manifest))
    return Decoded(quantized, floats, facts(proto.graph))


def _bits(graph: onnx.GraphProto) -> dict[str, int]:
    """Bits per tensor by the nodes that read it; 0, which fits nothing, where they disagree."""
    tables = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape"}
    bits: dict[str, int] = {}
    for node in graph.node:
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        stored = node.input[1] if node.op_type == "MatMulNBits" else tables.get(node.input[0], "")
        value = next((a.i for a in node.attribute if a.name == "bits"), 4)
        name = stored.removesuffix(".codes")
        bits[name] = value if bits.get(name, value) == value else 0
    return bits


def _tensor(
    found: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], bits: int
) -> QuantizedTensor:
    packed, scales = found[f"{name}.codes"], np.asarray(found[f"{name}.scales"], np.float32)
    if bits not in (4, 8) or packed.ndim != 3 or packed.shape[0] != shape[0]:
        what = f"{bits} bits, shape {packed.shape}"
        raise BadInputError(f"{name}.codes", what, f"rows {shape[0]}")
    codes = unpack(np.asarray(packed).reshape(shape[0], -1), bits)[:, : shape[1]]
    block = packed.shape[2] * 8 // bits
    if bits == 8 and bool((scales == scales[:, :1]).all()):
        return QuantizedTensor(Scheme(8, 0), codes, scales[:, :1].copy())
    return QuantizedTensor(Scheme(bits, block), codes, scales)


def unpack(packed: NDArray[np.uint8], bits: int) -> Int8:
    """Codes int8 [rows, columns] from unsigned bytes, at 4 bits two a byte, low nibble first."""
    if bits == 8:
        return (packed.astype(np.int16) - 128).astype(np.int8)
    codes = np.empty((packed.shape[0], packed.shape[1] * 2), np.int8)
    codes[:, 0::2] = (packed & 15).astype(np.int8) - 8
    codes[:, 1::2] = (packed >> 4).astype(np.int8) - 8
    return codes


def _floats(
    found: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]
) -> Iterator[tuple[str, Float32]]:
    shared = manifest["engine"]["options"].get("shared", {})
    for entry in manifest["floats"]:
        name = shared.get(entry["name"], entry["name"])
        if name in found:
            yield entry["name"], np.asarray(found[name], np.float32)
        elif f"{name}.transposed" in found:
            yield entry["name"], np.asarray(found[f"{name}.transposed"], np.float32).T


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
