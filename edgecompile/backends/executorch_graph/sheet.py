"""A subgraph while it is drawn: products with the source's weights, and constants of the file."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgecompile.backends.executorch_graph import encode
from edgecompile.backends.executorch_graph.delegate import NONE, Delegate
from edgecompile.backends.executorch_graph.pte import PteFile, Stored
from edgecompile.backends.joining import CODES, JOIN, SCALES, joinable
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme

MEAN, EPSILON = "mean", "epsilon"  # constants that are not the source's


@dataclass(kw_only=True)
class Sheet:
    """One subgraph, and where its weights come from and go.

    Weights are named as in transformers' module, without `.weight`.
    """

    model: Model
    sources: Mapping[str, str]  # a tensor's name in the module -> the source's
    schemes: Mapping[str, Scheme]
    file: PteFile
    stored: dict[str, Stored]  # by source name, with `.codes` or `.scales`
    tokens: int  # at most
    delegate: Delegate = field(default_factory=Delegate)
    quantized: dict[int, int] = field(default_factory=dict)  # value -> its int8 form

    def input(self, *tail: int) -> int:
        """float32 [1, tokens, ...]."""
        return self.delegate.input(1, self.tokens, *tail)

    def source(self, name: str) -> str:
        """The source's name of a tensor; empty if the model has none."""
        return self.sources.get(name, "")

    def rows(self, name: str) -> int:
        """Rows of a weight: what its product puts out."""
        return self.model.weights.infos[self.source(f"{name}.weight")].shape[0]

    def floats(self, label: str, shape: Sequence[int], *parts: NDArray[np.float32]) -> int:
        """A float32 constant; one of that name in another subgraph is the same."""
        if label not in self.stored:
            self.stored[label] = self.file.named(label, *parts)
        stored = self.stored[label]
        return self.delegate.constant(stored.key, shape, stored.size)

    def vector(self, name: str, dims: int) -> int:
        """A tensor [width] of the source, as [1, ..., width] of so many dimensions."""
        source = self.source(name)
        width = self.model.weights.infos[source].shape[-1]
        known = source in self.stored
        values = [] if known else [self.model.dense(source)]
        return self.floats(source, (*[1] * (dims - 1), width), *values)

    def times(self, value: int, label: str, factor: float) -> int:
        """A value times a number, which is a constant of that name."""
        return self.delegate.multiply(value, self.number(value, label, factor))

    def number(self, value: int, label: str, number: float) -> int:
        """A number, as a constant of as many dimensions as a value has."""
        dims = [1] * len(self.delegate.shape(value))
        return self.floats(f"{label}.{len(dims)}", dims, np.array([number], np.float32))

    def bias(self, names: Sequence[str]) -> int:
        """What is added to the rows of all named weights, or NONE."""
        sources = [source for name in names if (source := self.source(f"{name}.bias"))]
        parts = [self.model.dense(source) for source in sources]
        size = sum(len(part) for part in parts)
        return self.floats(JOIN.join(sources), (size,), *parts) if parts else NONE

    def mean(self, value: int, epsilon: float) -> int:
        """Over the last dimension, plus epsilon: a product with 1 / width."""
        width = self.delegate.shape(value)[-1]
        share = np.full((1, width), 1 / width, np.float32)
        weights = self.floats(f"{MEAN}.{width}", (1, width), share)
        bias = NONE
        if epsilon:
            bias = self.floats(EPSILON, (1,), np.array([epsilon], np.float32))
        return self.delegate.linear(value, weights, bias)


def written(sheet: Sheet) -> set[str]:
    """Source tensors that are in the file."""
    labels = (label.removesuffix(CODES) for label in sheet.stored)
    return {source for label in labels for source in label.split(JOIN)}


def products(sheet: Sheet, names: Sequence[str], value: int) -> list[int]:
    """A product a name; weights on one scheme are one product, cut afterwards."""
    found = []
    for group in joinable(names, sheet.sources, sheet.schemes):
        joined, start = product(sheet, group, value), 0
        for name in group:
            rows = sheet.rows(name)
            axis = len(sheet.delegate.shape(joined)) - 1
            cut = len(group) > 1
            found.append(sheet.delegate.cut(joined, axis, start, rows) if cut else joined)
            start += rows
    return found


def product(sheet: Sheet, names: Sequence[str], value: int) -> int:
    """value times the rows of all named weights, with their biases."""
    sources = [sheet.source(f"{name}.weight") for name in names]
    rows, bias = sum(sheet.rows(name) for name in names), sheet.bias(names)
    if sources[0] not in sheet.schemes:
        shape = sheet.model.weights.infos[sources[0]].shape
        known = sources[0] in sheet.stored
        values = [] if known else [sheet.model.dense(sources[0])]
        if known:
            sheet.file.name(sheet.stored[sources[0]])
        return sheet.delegate.linear(value, sheet.floats(sources[0], shape, *values), bias)
    if value not in sheet.quantized:
        sheet.quantized[value] = sheet.delegate.quantize(value)
    weight = _weight(sheet, sources, rows)
    return sheet.delegate.linear(sheet.quantized[value], weight, bias)


def _weight(sheet: Sheet, sources: Sequence[str], rows: int) -> int:
    """Codes and scales of the sources' rows, one below the other."""
    label, scheme = JOIN.join(sources), sheet.schemes[sources[0]]
    columns = sheet.model.weights.infos[sources[0]].shape[1]
    arrays = [encode.linear(sheet.model.quantized[source], source) for source in sources]
    places = []
    for end, parts in zip((CODES, SCALES), zip(*arrays, strict=True), strict=True):
        # A tied table's codes are there: equal data are in the file once.
        sheet.stored[label + end] = sheet.file.named(label + end, *parts)
        places.append(sheet.stored[label + end])
    codes, scales = ((one.key, one.size) for one in places)
    return sheet.delegate.weight(codes, scales, (rows, columns), scheme)
