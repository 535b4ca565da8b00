"""Faults of a graph for OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.faults.edits import constant, xml
from tests.faults.planting import fault
from tests.faults.twins import Clean, Twin

ENCODER = Twin("encoder", "openvino", "rtn", 8)
DECODER = Twin("decoder", "openvino", "gptq", 8)


@fault("attention causal", "openvino", ENCODER, "graph", slow=True)
def causal(folder: Path, _: Clean, __: float) -> None:
    """Tokens of an encoder see those before them alone."""
    xml(folder, 'causal="false"', 'causal="true"')


@fault("norm's epsilon", "openvino", ENCODER, "sealed", slow=True)
def epsilon(folder: Path, _: Clean, __: float) -> None:
    """The default of another framework."""
    xml(folder, 'eps="9.999999960041972e-13"', 'eps="1e-05"')


@fault("rope base", "openvino", DECODER, "sealed", slow=True,
       ladder=(1.0, 0.1, 0.01, 1e-4), at=1e-4, unit="relative")  # fmt: skip
def rope_base(folder: Path, _: Clean, magnitude: float) -> None:
    """The frequencies are of another base."""

    def change(table: np.ndarray) -> None:
        pairs = table.shape[-1]
        table *= (1 + magnitude) ** -(np.arange(pairs) / pairs)

    constant(folder, "rope.frequencies", change)


@fault("scales of a tensor", "openvino", DECODER, "sealed", slow=True,
       ladder=(2, 1.5, 1.2, 1.1, 1.05), at=1.5, unit="times")  # fmt: skip
def scales(folder: Path, _: Clean, magnitude: float) -> None:
    """A constant of the .bin file."""
    name = "model.layers.1.self_attn.o_proj.weight.scales"
    constant(folder, name, lambda table: np.multiply(table, magnitude, table, casting="unsafe"))
