"""A bias of attention by the distance of key and query, looked up for all pairs of places."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from executorch.exir.scalar_type import ScalarType
from numpy.typing import NDArray

from edgecompile.backends.executorch_graph.method import Method
from edgecompile.backends.executorch_graph.sheet import Sheet

FLOAT, LONG = ScalarType.FLOAT, ScalarType.LONG
BUCKETS, PLACES = "buckets", "places"  # constants that are not the source's


@dataclass(frozen=True)
class Distances:
    """`table` is a source tensor [buckets, heads]; `bucket_of` the row of each distance in it.

    int64 [2 farthest + 1]: of the distances key - query from -farthest to farthest.
    """

    table: str
    bucket_of: NDArray[np.int64]
    name: str = ""  # where a file has several

    @property
    def farthest(self) -> int:
        """The longest distance of two places."""
        return len(self.bucket_of) // 2


def by_rule(bucket: Callable[[torch.Tensor], torch.Tensor], farthest: int) -> NDArray[np.int64]:
    """The source's own rule asked once: an engine's logarithm may round into the next bucket."""
    found: NDArray[np.int64] = bucket(torch.arange(-farthest, farthest + 1)).numpy()
    return found


def bias(
    sheet: Sheet, method: Method, distances: Distances, queries: tuple[int, int], keys: int,
    most: tuple[int, int],
) -> int:  # fmt: skip
    """float32 [queries, keys, 1, heads] of queries from one place to another, and the first keys.

    `most` queries and keys there are.
    """
    farthest, zero = distances.farthest, method.scalar(0)
    whole = np.arange(farthest, dtype=np.int64)
    own = (whole - farthest)[:, None]  # so that a key less a query is a row of bucket_of
    asking = _part(sheet, method, LONG, (f"queries.{farthest}", own), 0, (*queries, most[0]))
    asked = _part(
        sheet, method, LONG, (f"keys.{farthest}", whole[None]), 1, (zero, keys, most[1])
    )
    rows, kinds = (method.buffer(LONG, *most, *tail) for tail in ((), (1,)))
    method.call("aten::sub.out", asked, asking, method.scalar(1), rows)
    label = f"{BUCKETS}.{distances.name}{farthest}"
    _look_up(method, _table(sheet, method, LONG, label, distances.bucket_of[:, None]), rows, kinds)
    values = sheet.model.dense(distances.table)
    found = method.buffer(FLOAT, *most, 1, values.shape[1])
    at, sheet.stored[distances.table] = sheet.file.constant(distances.table, values)
    table = method.constant(FLOAT, values.shape, at, distances.table)
    _look_up(method, table, kinds, found)
    return found


def drawn(sheet: Sheet, queries: int, keys: int, heads: int) -> int:
    """The next input of a subgraph, which `bias` made, as [1, heads, queries, keys]."""
    return sheet.delegate.transpose(sheet.delegate.input(queries, keys, 1, heads), 2, 3, 0, 1)


def places(
    sheet: Sheet, method: Method, axis: int, last: int, span: tuple[int, int, int]
) -> int:
    """0, 1, ... float32 of four dimensions along an axis; `span` is from, to, and how many."""
    shape = [1, 1, 1, 1]
    shape[axis] = last + 1
    values = np.arange(last + 1, dtype=np.float32).reshape(shape)
    return _part(sheet, method, FLOAT, (str(last), values), axis, span)


def _part(
    sheet: Sheet, method: Method, dtype: ScalarType, table: tuple[str, NDArray[Any]], axis: int,
    span: tuple[int, int, int],
) -> int:  # fmt: skip
    label, values = table
    start, end, most = span
    whole = _table(sheet, method, dtype, f"{PLACES}.{label}", values)
    sizes = [most if at == axis else size for at, size in enumerate(values.shape)]
    part, one = method.buffer(dtype, *sizes), method.scalar(1)
    call = "aten::slice_copy.Tensor_out"
    method.call(call, whole, method.scalar(axis), start, end, one, part)
    return part


def _table(
    sheet: Sheet, method: Method, dtype: ScalarType, label: str, values: NDArray[Any]
) -> int:
    at, _ = sheet.file.constant(label, values)
    return method.constant(dtype, values.shape, at, label)


def _look_up(method: Method, table: int, ids: int, out: int) -> None:
    no = method.scalar(False)
    method.call("aten::embedding.out", table, ids, method.scalar(-1), no, no, out)
