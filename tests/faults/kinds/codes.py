"""Codes and scales that are not what the recipe's rounding gives; manifest and file agree."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import QuantizedTensor, Scheme, representable_scale
from tests.faults.edits import from_wrong_codes
from tests.faults.planting import fault
from tests.faults.twins import Twin

EIGHT = Twin("decoder", "gguf", "gptq", 8)
FOUR = Twin("decoder", "gguf", "gptq", 4)
ROUNDED = Twin("encoder", "openvino", "rtn", 8)
NAME = "model.layers.1.self_attn.o_proj.weight"
ENCODER_NAME = "encoder.layer.1.output.dense.weight"
Codes = dict[str, QuantizedTensor]


def scaled(tensor: QuantizedTensor, factor: float, rows: slice) -> QuantizedTensor:
    """The tensor with the scales of some rows, in one group, multiplied."""
    scales = tensor.scales.copy()
    scales[rows, :1] = representable_scale(scales[rows, :1] * np.float32(factor))
    return dataclasses.replace(tensor, scales=scales)


@fault("scale of one row", "recipe", EIGHT, "sealed",
       ladder=(256, 64, 16, 8, 4, 2), at=4, unit="times")  # fmt: skip
@from_wrong_codes
def one_row(codes: Codes, magnitude: float) -> None:
    """One row's scale is too large."""
    codes[NAME] = scaled(codes[NAME], magnitude, slice(3, 4))


@fault("scale of one group", "recipe", FOUR, "sealed",
       ladder=(256, 64, 16, 8, 4, 2), at=64, unit="times")  # fmt: skip
@from_wrong_codes
def one_group(codes: Codes, magnitude: float) -> None:
    """One group of 32 has a scale that is too large."""
    codes[NAME] = scaled(codes[NAME], magnitude, slice(3, 4))


@fault("scale of one row, rounded to nearest", "recipe", ROUNDED, "sealed",
       ladder=(4, 2, 1.5, 1.2, 1.1, 1.05), at=1.1, unit="times")  # fmt: skip
@from_wrong_codes
def one_row_rounded(codes: Codes, magnitude: float) -> None:
    """As above where no calibration moved weights: the source's own bound of error holds."""
    codes[ENCODER_NAME] = scaled(codes[ENCODER_NAME], magnitude, slice(3, 4))


@fault("scales of a tensor", "recipe", EIGHT, "sealed", slow=True,
       ladder=(2, 1.5, 1.2, 1.1, 1.05, 1.02), at=1.5, unit="times")  # fmt: skip
@from_wrong_codes
def all_rows(codes: Codes, magnitude: float) -> None:
    """All of one tensor's scales are too large."""
    scales = representable_scale(codes[NAME].scales * np.float32(magnitude))
    codes[NAME] = dataclasses.replace(codes[NAME], scales=scales)


@fault("scales off by one group", "recipe", FOUR, "sealed")  # fmt: skip
@from_wrong_codes
def off_by_one(codes: Codes, _: float) -> None:
    """Each group has the scale of the one before it, in all matrices of a layer."""
    for name in [name for name in codes if ".layers.1." in name]:
        scales = codes[name].scales
        moved = np.roll(scales.reshape(-1), 1).reshape(scales.shape)
        codes[name] = dataclasses.replace(codes[name], scales=moved)


@fault("codes saturate", "recipe", EIGHT, "sealed", slow=True,
       ladder=(16, 32, 48, 64, 96, 112), at=96, unit="is the largest code")  # fmt: skip
@from_wrong_codes
def saturated(codes: Codes, magnitude: float) -> None:
    """Codes of a layer beyond a limit lie on it: a range was taken too small."""
    for name in [name for name in codes if ".layers.1." in name]:
        kept = np.clip(codes[name].codes, -magnitude, magnitude).astype(np.int8)
        codes[name] = dataclasses.replace(codes[name], codes=kept)


@fault("codes off by one", "recipe", EIGHT, "sealed", slow=True,
       ladder=(16, 8, 4, 2, 1), at=2, unit="codes")  # fmt: skip
@from_wrong_codes
def zero_point(codes: Codes, magnitude: float) -> None:
    """A zero point that the writer took for 0, in all layers."""
    for name in [name for name in codes if ".layers." in name]:
        moved = np.clip(codes[name].codes.astype(int) + int(magnitude), -128, 127)
        codes[name] = dataclasses.replace(codes[name], codes=moved.astype(np.int8))


@fault("fewer bits than stated", "recipe", EIGHT, "sealed",
       ladder=(6, 5, 4, 3, 2, 1), at=3, unit="low bits lost")  # fmt: skip
@from_wrong_codes
def low_bits(codes: Codes, magnitude: float) -> None:
    """All tensors hold fewer bits than their scheme says."""
    step = 1 << int(magnitude)
    for name, tensor in codes.items():
        kept = np.clip(np.rint(tensor.codes / step) * step, -128, 127).astype(np.int8)
        codes[name] = dataclasses.replace(tensor, codes=kept)


@fault("4 bits where the recipe says 8", "recipe", EIGHT, "sealed")  # fmt: skip
@from_wrong_codes
def four_bits(codes: Codes, _: float) -> None:
    """The plan said 8 bits, what ships is rounded to 4, and the manifest says so."""
    for name, tensor in codes.items():
        codes[name] = quantize(tensor.dequantize(), Scheme(4, 32))
