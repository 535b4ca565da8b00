"""Codes for a model as the quantize stage leaves them: on disk, read when asked."""

from __future__ import annotations

from pathlib import Path

from edgecompile.model import Model
from edgecompile.passes.quantize_rtn import QuantizeRtn
from tests import tiny


def rounded(model: Model, folder: Path, bits: int) -> Model:
    """Every matrix rounded to nearest, without a search."""
    settings = QuantizeRtn(bits=bits, scale_search=False)  # type: ignore[arg-type]
    return settings(model, tiny.work(folder)).model
