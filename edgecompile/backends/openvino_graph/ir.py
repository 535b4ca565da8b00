"""Read OpenVINO's IR without the engine: layers, edges and constants mapped from the .bin file.

docs.openvino.ai, "OpenVINO IR format"; a file in a sealed bundle is untrusted: places outside the
.bin, unknown element types and XML with a document type are refused.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends.openvino_graph.storage import DATA, GRAPH
from edgecompile.errors import BadInputError

BITS = {"i4": 4, "i8": 8, "u8": 8, "f16": 16, "f32": 32, "i32": 32, "i64": 64}
DTYPES = {"i8": np.int8, "u8": np.uint8, "f16": np.float16, "f32": np.float32, "i32": np.int32,
          "i64": np.int64}  # fmt: skip
Port = tuple[int, str]  # number of an input, and of the layer that feeds it


@dataclass(frozen=True)
class Layer:
    """One node: its kind (`Const`, `MatMul`, ...), name and attributes as they are written."""

    number: str
    kind: str
    name: str
    attributes: Mapping[str, str]


class Graph:
    """The layers of an openvino_model.xml, or of one of several graphs, by name and number."""

    def __init__(self, folder: Path, file: str = GRAPH) -> None:
        self.file, self._data = folder / file, folder / DATA
        try:
            text = self.file.read_bytes()
            if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
                raise BadInputError(str(self.file), "a document type", "an IR as OpenVINO writes")
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise BadInputError(str(self.file), str(error), "XML") from error
        self.layers = {layer.number: layer for layer in map(_layer, root.iterfind("layers/layer"))}
        self._sources: dict[str, list[Port]] = {}
        self._readers: dict[str, list[str]] = {}
        for edge in root.iterfind("edges/edge"):
            source, target = edge.get("from-layer", ""), edge.get("to-layer", "")
            port = edge.get("to-port", "")
            if source not in self.layers or target not in self.layers or not port.isdecimal():
                raise BadInputError(str(self.file), f"edge {dict(edge.attrib)}", "between layers")
            self._sources.setdefault(target, []).append((int(port), source))
            self._readers.setdefault(source, []).append(target)

    @cached_property
    def names(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers.values()}

    @cached_property
    def constants(self) -> Mapping[str, Layer]:
        """Constants by name."""
        return {name: one for name, one in self.names.items() if one.kind == "Const"}

    def readers(self, layer: Layer) -> list[Layer]:
        """The nodes that read a layer's outputs."""
        return [self.layers[number] for number in self._readers.get(layer.number, ())]

    def sources(self, layer: Layer) -> list[Layer]:
        """The nodes that a layer reads, in the order of its inputs."""
        return [self.layers[number] for _, number in sorted(self._sources.get(layer.number, ()))]

    def source(self, layer: Layer, at: int = 0) -> Layer:
        """One of them."""
        found = self.sources(layer)
        if len(found) <= at:
            raise BadInputError(str(self.file), f"{layer.name} has {len(found)} inputs", "more")
        return found[at]

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        if name not in self.names:
            raise BadInputError(str(self.file), f"no layer {name!r}", "one for every weight")
        return self.names[name]

    def _numbers(self, layer: Layer, name: str) -> tuple[int, ...]:
        """An attribute of whole numbers from 0 on, with commas between them."""
        text = layer.attributes.get(name, "").strip()
        parts = text.split(",") if text else []
        if not all(part.strip().isdecimal() for part in parts):
            raise BadInputError(str(self.file), f"{layer.name}: {name} {text!r}", "numbers")
        return tuple(int(part) for part in parts)

    def of_kind(self, kind: str) -> list[Layer]:
        """All layers of a kind, in the file's order."""
        return [layer for layer in self.layers.values() if layer.kind == kind]

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """A constant's shape."""
        return self._numbers(layer, "shape")

    def array(self, name: str) -> NDArray[Any]:
        """A constant's values, mapped from the file; i4 as bytes uint8 [..., last / 2]."""
        layer = self.constants.get(name)
        if layer is None:
            raise BadInputError(str(self.file), f"no constant {name!r}", "one for every tensor")
        kind, shape = layer.attributes.get("element_type", ""), self.shape(layer)
        place = self._place(layer)
        expected = -(-math.prod(shape) * BITS.get(kind, 0) // 8)
        if kind not in BITS or place[1] != expected:
            raise BadInputError(str(self.file), f"{name}: {kind} {shape} at {place}", "its bytes")
        if not expected:
            return np.zeros(shape, DTYPES[kind])
        if kind == "i4":
            return np.memmap(self._data, np.uint8, "r", place[0], (*shape[:-1], shape[-1] // 2))
        return np.memmap(self._data, DTYPES[kind], "r", place[0], shape or (1,)).reshape(shape)

    def stored(self, layer: Layer) -> tuple[int, NDArray[np.uint8]]:
        """Where a constant begins in the .bin file, and its bytes, mapped."""
        offset, size = self._place(layer)
        if not size:
            return offset, np.zeros(0, np.uint8)
        return offset, np.memmap(self._data, np.uint8, "r", offset, (size,))

    def _place(self, layer: Layer) -> tuple[int, int]:
        """A constant's offset and size in bytes, within the .bin file."""
        place = *self._numbers(layer, "offset"), *self._numbers(layer, "size")
        if len(place) != 2:
            raise BadInputError(str(self.file), f"{layer.name} at {place}", "an offset and a size")
        if sum(place) > self._data.stat().st_size:
            found = f"{layer.name} ends at {sum(place)}"
            raise BadInputError(str(self._data), found, "within the file")
        return place[0], place[1]


def _layer(node: ElementTree.Element) -> Layer:
    data = node.find("data")
    attributes = dict(data.attrib) if data is not None else {}
    return Layer(node.get("id", ""), node.get("type", ""), node.get("name", ""), attributes)
