"""What a graph with named inputs is given: a caller's arrays, checked, or token ids, padded."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError, UsageError


class NamedInputs(ABC):
    """The half of an engine that answers arrays and texts by calling one graph, outputs in order.

    `dtypes` of its inputs by name, in numpy's names.
    """

    def __init__(self, dtypes: Mapping[str, str], pad_id: int) -> None:
        self._inputs, self._pad_id = dict(dtypes), pad_id

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name; inputs are checked by name and dtype first."""
        check_arrays(arrays, self._inputs)
        return self._call(arrays)

    def encode(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.float32]:
        """The graph's first output [n, width] or [n, longest, width] of the ids, padded."""
        arrays = padded(ids, self._pad_id, self._inputs, types)
        first = next(iter(self._call(arrays).values()))
        return np.asarray(first, np.float32)

    @abstractmethod
    def _call(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The graph's outputs by name, in its order."""


def check_arrays(arrays: Mapping[str, NDArray[Any]], dtypes: Mapping[str, str]) -> None:
    """Refuse other names than the graph's, and other dtypes; `dtypes` by input, numpy's names."""
    if set(arrays) != set(dtypes):
        raise UsageError("run", f"inputs {sorted(arrays)}", f"{sorted(dtypes)}")
    for name, array in arrays.items():
        if array.dtype.name != dtypes[name]:
            raise UsageError(f"run: input {name}", f"dtype {array.dtype}", dtypes[name])


def padded(
    ids: Sequence[Sequence[int]], pad_id: int, dtypes: Mapping[str, str],
    types: Sequence[Sequence[int]] | None = None,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """A text encoder's inputs [n, longest] of those names that it has, padded at the end.

    `types` say of which text of a pair a token is; None: all are of the first.
    """
    length = max(map(len, ids))
    tokens = np.full((len(ids), length), pad_id, np.int64)
    mask, kinds = (np.zeros((len(ids), length), np.int64) for _ in range(2))
    for row, row_ids in enumerate(ids):
        tokens[row, : len(row_ids)] = row_ids
        mask[row, : len(row_ids)] = 1
        if types is not None:
            kinds[row, : len(row_ids)] = types[row]
    known = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": kinds}
    if unknown := dtypes.keys() - known.keys():
        raise BadInputError("engine file", f"inputs {sorted(unknown)}", f"{sorted(known)}")
    return {name: known[name].astype(dtype, copy=False) for name, dtype in dtypes.items()}
