"""Passes: each changes the model and says what it matched, changed and skipped."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme

Progress = Callable[[str, int, int], None]  # (what is done now, steps done, steps in all)


@dataclass(frozen=True)
class LayerReport:
    """What a pass did to one tensor; `error` is the relative error it made (Frobenius norm)."""

    name: str
    action: str  # changed, skipped
    detail: str  # the scheme, or why it was skipped
    error: float = 0.0


@dataclass(frozen=True)
class PassResult:
    """A pass's model and its report, one row a tensor."""

    model: Model
    layers: tuple[LayerReport, ...]

    @property
    def changed(self) -> int:
        """Number of tensors that the pass changed."""
        return sum(layer.action == "changed" for layer in self.layers)


class Pass(Protocol):
    """A frozen dataclass whose fields are its options; calling it runs it."""

    name: ClassVar[str]

    def preview(self, model: Model) -> dict[str, Scheme]:
        """The scheme that each tensor will get, from headers alone; empty if the pass sets none."""
        ...

    def __call__(self, model: Model, progress: Progress) -> PassResult:
        """Return the changed model; raise UsageError when no tensor matches."""
        ...
