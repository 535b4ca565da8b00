"""What a graph is drawn for: the CPU or a GPU, and the type that it computes in."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

# int32: given to a GPU's graph, computed in a CPU's
LENGTHS = ("seqlens_k", "total_sequence_length")
POSITION_IDS = "position_ids"  # int64 [batch, length], given to a GPU's graph with such a table
LAST_TOKENS = "last_tokens"  # int64 [1]: logits of so many last positions of a call alone
LOGITS_START = "logits_start"  # int64 [1]: -n, where a GPU's graph begins to compute logits


@dataclass(frozen=True)
class GraphForm:
    """`gpu`: no node of integers that the provider would leave to the CPU; `half`: float16."""

    accuracy_level: int = 4
    gpu: bool = False
    half: bool = False

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Of activations, scales, norms and the KV cache."""
        return np.float16 if self.half else np.float32

    @property
    def element(self) -> int:
        """The same as ONNX calls it."""
        return int(TensorProto.FLOAT16 if self.half else TensorProto.FLOAT)

    def cast(self, values: NDArray[Any]) -> NDArray[Any]:
        """Floats as the graph computes them; scales of the grid lose nothing (numerics.schemes)."""
        return values.astype(self.dtype, copy=False)
