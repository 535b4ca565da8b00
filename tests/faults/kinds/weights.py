"""A bundle built from a wrong copy of the source: its tensors are not those of the check's."""

from __future__ import annotations

from typing import Any

from tests.faults.edits import from_wrong_source
from tests.faults.planting import fault
from tests.faults.twins import Twin

DECODER = Twin("decoder", "gguf", "gptq", 8)
ENCODER = Twin("encoder", "gguf")
Tensors = dict[str, Any]
BLOCK = "model.layers.{}."
HEAD = 16  # columns of a head


@fault("weight transposed", "source", DECODER, "quality")
@from_wrong_source
def transposed(tensors: Tensors, _: float) -> None:
    """A square matrix read column by column."""
    name = "model.layers.1.self_attn.o_proj.weight"
    tensors[name] = tensors[name].T


@fault("heads swapped", "source", DECODER, "quality")
@from_wrong_source
def heads_swapped(tensors: Tensors, _: float) -> None:
    """Two heads' queries change places."""
    name = "model.layers.0.self_attn.q_proj.weight"
    old = tensors[name].clone()
    tensors[name][:HEAD], tensors[name][2 * HEAD : 3 * HEAD] = (
        old[2 * HEAD : 3 * HEAD], old[:HEAD],
    )  # fmt: skip


@fault(
    "bias missing", "source", ENCODER, "export", ladder=(1.0, 0.3, 0.1, 0.03, 0.01), at=0.1,
    unit="of the bias",
)  # fmt: skip
@from_wrong_source
def bias_missing(tensors: Tensors, magnitude: float) -> None:
    """A share of one product's bias is lost."""
    tensors["encoder.layer.1.intermediate.dense.bias"] *= 1 - magnitude
