"""Put a model's codes into an exported float graph and name what it holds after the source."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from edgecompile.backends.joining import TRANSPOSED
from edgecompile.backends.onnx_graph import encode, kernels, whole_rows
from edgecompile.backends.onnx_graph.activations import Form
from edgecompile.backends.onnx_graph.encode import Site
from edgecompile.backends.onnx_graph.weights import Match, initializer_array, match, stored_name
from edgecompile.errors import EdgecompileError, UnsupportedError
from edgecompile.model import Model


@dataclass(frozen=True)
class Rewritten:
    """The graph with codes, and where the source's tensors are in it.

    `shared` maps a source tensor to the equal one whose initializer it shares; `absent` are source
    tensors that the graph does not hold.
    """

    model: onnx.ModelProto
    shared: Mapping[str, str]
    absent: tuple[str, ...]


def rewrite(
    exported: onnx.ModelProto, folder: Path, model: Model, form: Form
) -> Rewritten:
    """Replace every use of a quantized tensor; raises when a use has no form with codes."""
    graph = exported.graph
    matches = match(graph, folder, model)
    sites = {id(site.node): site for site in _sites(graph, matches, model)}
    convolved = {site.source for site in sites.values() if site.kind == "convolution"}
    left = set(convolved)  # whose values no node has computed yet
    rows = whole_rows.write(graph, folder, matches, list(sites.values()), model, form)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        site = sites.get(id(node))
        if node.output[0] in rows.nodes:
            nodes += rows.nodes[node.output[0]]
        elif site is None:
            nodes.append(node)
        elif site.kind == "gather":
            nodes += encode.gather_nodes(site, model.quantized[site.source])
        elif site.kind == "convolution":
            nodes += kernels.nodes(site.source) if site.source in left else []
            nodes.append(node)
            node.input[1] = site.source + kernels.VALUES
            left.discard(site.source)
        else:
            nodes += encode.matmul_node(
                site, model.quantized[site.source], form.accuracy_level
            )
    coded = {site.source for site in sites.values()}
    elsewhere = {*rows.sources, *convolved}
    new = _initializers(graph, folder, matches, model, coded, elsewhere)
    new |= {tensor.name: tensor for tensor in rows.initializers}
    for name in sorted(convolved):
        shape = model.weights.infos[name].shape
        made = kernels.initializers(name, model.quantized[name], shape)
        new |= {tensor.name: tensor for tensor in made}
    for site in sites.values():
        if site.kind == "gather":
            new[f"{site.source}.table_shape"] = encode.table_shape(
                site.source, model.quantized[site.source]
            )
    renamed = {name: stored_name(found) for name, found in matches.items()}
    result = _assemble(exported, nodes, new, renamed)
    _refuse_leftovers(result, model)
    shared = {n: m.names[0] for m in matches.values() for n in m.names[1:]}
    present = {name for found in matches.values() for name in found.names}
    absent = tuple(n for n in model.weights if n not in present)
    _refuse_changed([name for name in absent if name in model.quantized])
    return Rewritten(result, shared, absent)


def _refuse_changed(names: Sequence[str]) -> None:
    """A quantized tensor that is not found as it was would ship other numbers than were chosen."""
    if names:
        raise UnsupportedError(
            "onnxruntime backend", f"the exported graph does not hold {names[0]} as it is",
            "every quantized tensor", f"--set 'quantize.skip=[\"{names[0]}\"]'",
        )  # fmt: skip


def _sites(graph: onnx.GraphProto, matches: Mapping[str, Match], model: Model) -> Iterator[Site]:
    """Uses of quantized tensors, straight or through a Transpose."""
    transposes = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in matches
    }
    for node in graph.node:
        for position in (0, 1):
            if len(node.input) <= position:
                continue
            name = transposes.get(node.input[position], node.input[position])
            found = matches.get(name)
            if found is None or found.names[0] not in model.quantized:
                continue
            flipped = found.transposed != (name != node.input[position])
            site = _site(node, position, found.names[0], flipped)
            if site is not None:
                yield site


def _site(node: onnx.NodeProto, position: int, source: str, flipped: bool) -> Site | None:
    """`flipped`: the node sees [in, out], as MatMul wants; Gather wants [rows, columns]."""
    attributes = {a.name: helper_value(a) for a in node.attribute}
    if node.op_type == "MatMul" and position == 1 and flipped:
        return Site(node, source, "matmul")
    if node.op_type == "Conv" and position == 1 and not flipped:
        return Site(node, source, "convolution")
    if node.op_type == "Gather" and position == 0 and not flipped and not attributes.get("axis"):
        return Site(node, source, "gather")
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    untouched = plain and not attributes.get("transA")
    right = flipped != bool(attributes.get("transB"))
    if node.op_type == "Gemm" and position == 1 and untouched and right:
        return Site(node, source, "matmul", node.input[2] if len(node.input) > 2 else "")
    return None


def helper_value(attribute: onnx.AttributeProto) -> float:
    """A numeric attribute's value, 0 for other kinds."""
    value = onnx.helper.get_attribute_value(attribute)
    return float(value) if isinstance(value, int | float) else 0.0


def _initializers(
    graph: onnx.GraphProto, folder: Path, matches: Mapping[str, Match], model: Model,
    encoded: set[str], elsewhere: Collection[str],
) -> dict[str, onnx.TensorProto]:  # fmt: skip
    new: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        found = matches.get(tensor.name)
        if found and found.names[0] in elsewhere:
            continue
        if found and found.names[0] in encoded:
            for item in encode.initializers(found.names[0], model.quantized[found.names[0]]):
                new[item.name] = item
            continue
        name = stored_name(found) if found else tensor.name
        new[name] = numpy_helper.from_array(initializer_array(tensor, folder).copy(), name)
    return new


def _assemble(
    exported: onnx.ModelProto, nodes: list[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto], renamed: Mapping[str, str],
) -> onnx.ModelProto:  # fmt: skip
    """The new graph without nodes and initializers that nothing reads."""
    graph = exported.graph
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    result = onnx.ModelProto()
    result.CopyFrom(exported)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(reversed(kept))
    result.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in needed)
    if not any(entry.domain == encode.DOMAIN for entry in result.opset_import):
        result.opset_import.append(onnx.helper.make_opsetid(encode.DOMAIN, 1))
    return result


def _refuse_leftovers(result: onnx.ModelProto, model: Model) -> None:
    """A quantized tensor that still stands as floats would ship other numbers than were chosen."""
    names = {tensor.name for tensor in result.graph.initializer}
    for name in model.quantized:
        if name in names or name + TRANSPOSED in names:
            readers = [
                node.op_type for node in result.graph.node
                if name in node.input or name + TRANSPOSED in node.input
            ]  # fmt: skip
            raise EdgecompileError(
                "onnxruntime backend", f"{name} is quantized but {readers} reads it as floats",
                "MatMul, Gemm, Gather or Conv", f"--set 'quantize.skip=[\"{name}\"]'",
            )  # fmt: skip
