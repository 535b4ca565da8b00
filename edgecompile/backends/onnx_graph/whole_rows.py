"""Find the products of an exported graph that are written with 8-bit rows and activations."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from edgecompile.backends.onnx_graph import activations
from edgecompile.backends.onnx_graph.activations import Form, Product
from edgecompile.backends.onnx_graph.encode import Site
from edgecompile.backends.onnx_graph.links import Links
from edgecompile.backends.onnx_graph.weights import Match, initializer_array
from edgecompile.model import Model
from edgecompile.numerics.schemes import QuantizedTensor


@dataclass(frozen=True)
class WholeRows:
    """Nodes that take others' places, by the first output of what they replace; initializers.

    `sources` are tensors whose codes are among these initializers.
    """

    nodes: Mapping[str, list[onnx.NodeProto]]
    initializers: Sequence[onnx.TensorProto]
    sources: Collection[str]


def write(
    graph: onnx.GraphProto, folder: Path, matches: Mapping[str, Match], sites: Sequence[Site],
    model: Model, form: Form,
) -> WholeRows:  # fmt: skip
    """Products of tensors that nothing but products reads, those with one input joined."""
    tensors = _tensors(sites, model, form)
    vectors = _Vectors(graph, folder, matches)
    links = Links(graph)
    nodes: dict[str, list[onnx.NodeProto]] = {}
    products = []
    for site in sites:
        if site.source in tensors:
            product, add = _product(site, links, vectors)
            products.append(product)
            nodes |= {node.output[0]: [] for node in (site.node, add) if node is not None}
    stored: list[onnx.TensorProto] = []
    for group in activations.joined(products, tensors, form):
        nodes[group[0].site.node.output[0]] = activations.nodes(group, tensors, form)
        stored += activations.initializers(group, tensors, form)
        if activations.joint_bias(group):
            biases = [vectors.array(product.bias) for product in group]
            stored.append(activations.bias_initializer(group, biases))
    return WholeRows(nodes, stored, tensors.keys())


def _tensors(sites: Sequence[Site], model: Model, form: Form) -> dict[str, QuantizedTensor]:
    """Weights on whole rows that one product reads, and no table look-up."""
    uses: dict[str, list[str]] = {}
    for site in sites:
        uses.setdefault(site.source, []).append(site.kind)
    found = {}
    for name, kinds in uses.items():
        tensor = model.quantized[name]
        if kinds == ["matmul"] and form.whole_rows(name, tensor.scheme):
            found[name] = tensor
    return found


class _Vectors:
    """Biases under their source names, where a name stands for one initializer alone."""

    def __init__(
        self, graph: onnx.GraphProto, folder: Path, matches: Mapping[str, Match]
    ) -> None:
        self._folder = folder
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._sources = {
            name: found.names[0] for name, found in matches.items()
            if len(found.names) == 1 and name in self._stored and len(self._stored[name].dims) == 1
        }  # fmt: skip

    def source(self, name: str) -> str:
        """The source's name of a vector; empty if it has none of its own."""
        return self._sources.get(name, "")

    def array(self, name: str) -> NDArray[Any]:
        """The values."""
        return initializer_array(self._stored[name], self._folder)


def _product(
    site: Site, links: Links, vectors: _Vectors
) -> tuple[Product, onnx.NodeProto | None]:
    """A site with the Add of a bias that follows it, if one does, and that Add."""
    output = site.node.output[0]
    if site.bias:
        return Product(site, output, site.bias, vectors.source(site.bias)), None
    add = links.only_reader(output, "Add")
    biases = [name for name in add.input if vectors.source(name)] if add else []
    if add is None or len(biases) != 1:
        return Product(site, output), None
    return Product(site, add.output[0], biases[0], vectors.source(biases[0])), add
