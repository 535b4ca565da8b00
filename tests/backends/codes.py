"""Codes for a model as the quantize stage leaves them: on disk, read when asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Work
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.text.parts import Corpus


def rounded(model: Model, folder: Path, bits: int) -> Model:
    """Every matrix rounded to nearest, without a search."""
    folder.mkdir(exist_ok=True)
    settings = QuantizeRtn(bits=bits, scale_search=False)  # type: ignore[arg-type]
    return settings(model, Work(_quiet, folder, _no_text, _no_size)).model


def _quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def _no_text() -> Corpus:
    raise AssertionError("rounding to nearest reads no text")


def _no_size(_schemes: Mapping[str, Scheme]) -> int:
    raise AssertionError("rounding to nearest asks for no size")
