"""Codes for a model as the quantize stage leaves them: on disk, read when asked."""

from __future__ import annotations

from pathlib import Path

from edgecompile.model import Model
from edgecompile.passes.quantize_rtn import QuantizeRtn
from tests import tiny


def rounded(model: Model, folder: Path, bits: int, *, convolutions: bool = True) -> Model:
    """Every matrix rounded to nearest, without a search."""
    settings = QuantizeRtn(
        bits=bits,  # type: ignore[arg-type]
        scale_search=False, convolutions=convolutions,
    )  # fmt: skip
    return settings(model, tiny.work(folder)).model
