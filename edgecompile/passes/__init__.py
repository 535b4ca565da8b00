"""Passes: each changes the model and says what it matched, changed and skipped."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.text.parts import Corpus

CHECKPOINT, NOTE = "checkpoint", "note.txt"  # of a pass that reshapes, in its folder
Progress = Callable[[str, int, int], None]  # (what is done now, steps done, steps in all)


@dataclass(frozen=True)
class Work:
    """What a pass may use while it runs.

    `folder` holds this very pass's finished parts (edgecompile.codes): a pass that was killed finds
    them there and goes on. `corpus` reads text when called: calibration and tuning are for passes,
    held-out text is for the check alone. `size` gives the bundle's bytes for schemes by tensor.
    `stage` is a part of the work under a name and options of its own, in a folder that other runs
    of the pass with the same model, text and options of that part find again. `file` finds a file
    that an option names: beside the recipe.
    """

    progress: Progress
    folder: Path
    corpus: Callable[[], Corpus]
    size: Callable[[Mapping[str, Scheme]], int]
    stage: Callable[[str, Mapping[str, Any], Callable[[Path], None]], Path]
    file: Callable[[str], Path] = Path


@dataclass(frozen=True)
class LayerReport:
    """What a pass did to one tensor, and the relative error it made (Frobenius norm).

    The error is that of the `weights`, or of the layer's `outputs` on calibration inputs; `nearest`
    is the same for rounding to nearest on the same scheme, where the pass measured it.
    """

    name: str
    action: str  # changed, skipped
    detail: str  # the scheme, or why it was skipped
    error: float = 0.0
    nearest: float | None = None
    of: str = "weights"


@dataclass(frozen=True)
class PassResult:
    """A pass's model and its report, one row a tensor."""

    model: Model
    layers: tuple[LayerReport, ...]

    @property
    def changed(self) -> int:
        """Number of tensors that the pass changed."""
        return sum(layer.action == "changed" for layer in self.layers)


@dataclass(frozen=True)
class Effort:
    """What a pass will take: multiply-adds, weights to round, bytes beside those of the build."""

    products: float = 0.0
    rounded: float = 0.0
    memory: float = 0.0


def uncalibrated(task: str) -> UnsupportedError:
    """The refusal to calibrate an encoder-decoder, whose two rows of blocks no pass walks."""
    return UnsupportedError(
        "calibration", f"task {task}: an encoder and a decoder of blocks of two kinds",
        "a model of one row of blocks", "--set quantize.method=rtn",
    )  # fmt: skip


class Pass(Protocol):
    """A frozen dataclass whose fields are its options; calling it runs it."""

    name: ClassVar[str]
    reads_text: ClassVar[tuple[str, ...]]  # the parts of the text that shape its result
    reads_target: ClassVar[bool]  # its result is for one target alone

    def preview(self, model: Model) -> dict[str, Scheme]:
        """The scheme that each tensor will get, from headers alone; empty if the pass sets none."""
        ...

    def effort(self, model: Model) -> Effort:
        """What running it will take, from headers alone."""
        ...

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Return the changed model; raise UsageError when no tensor matches."""
        ...


@runtime_checkable
class Reshapes(Protocol):
    """A pass that writes another model: into CHECKPOINT of its folder, a line in NOTE."""

    def headers(self, model: Model) -> Model:
        """What the model will be, from headers alone: its config and its tensors' shapes."""
        ...


@runtime_checkable
class Sparsifies(Protocol):
    """A pass that leaves zeros in weights, which only some engines make use of."""

    def no_gain(self, backend: str) -> str:
        """Why that backend's bundles gain nothing by them; empty where they do."""
        ...
