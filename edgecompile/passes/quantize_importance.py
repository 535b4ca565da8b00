"""quantize_importance: rounds nothing; measures which weights matter, for an engine that rounds."""
from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgecompile import codes
from edgecompile.calibration.batches import text_batches
from edgecompile.calibration.moments import rows_of
from edgecompile.calibration.walk import Layer, Walk
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.numerics.parallel import one_thread_a_piece, spread
from edgecompile.numerics.schemes import Float32, Scheme
from edgecompile.passes import Effort, LayerReport, PassResult, Work
from edgecompile.structure import roles


@dataclass(frozen=True)
class QuantizeImportance:
    """Options: `texts` windows of `length` tokens for a decoder, whole texts for an encoder.

    What llama-imatrix measures: for each matrix in a block, the mean square of each column's input.
    """

    name: ClassVar[str] = "quantize_importance"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    reads_target: ClassVar[bool] = False
    texts: int = 128
    length: int = 512

    def preview(self, model: Model) -> dict[str, Scheme]:
        """None: no tensor gets codes of our grid."""
        return {}

    def effort(self, model: Model) -> Effort:
        """Every matrix runs on the text once."""
        shapes = [model.weights.infos[n].shape for n, r in roles(model).items() if r == "linear"]
        products = sum(math.prod(shape) for shape in shapes) * self.texts * self.length
        return Effort(products=float(products))

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Run the float model block by block; parts are blocks."""
        batches = text_batches(model, work.corpus().calibration, self.texts, self.length)
        with one_thread_a_piece(), closing(Walk(model, batches, work.folder)) as walk:
            for index in range(len(walk.blocks)):
                _block(walk, work, index)
        found = codes.importance(work.folder)
        if not found:
            expected = "a matrix product in a block"
            raise UsageError(self.name, f"no tensor of {model.name} matched", expected)
        rows = codes.layers(work.folder)
        others = (name for name in model.weights if name not in rows)
        rows |= {n: LayerReport(n, "skipped", "no matrix product in a block") for n in others}
        changed = dataclasses.replace(model, importance={**model.importance, **found})
        return PassResult(changed, tuple(rows[name] for name in model.weights))


def _block(walk: Walk, work: Work, index: int) -> None:
    """Pass the activations through a block, and note what enters its matrices unless it is known.

    Batches run side by side; their sums are added in order, so that the result is always the same.
    """
    known = index in codes.parts(work.folder)
    walk.hold(index)
    layers = [] if known else [layer for group in walk.layers(index) for layer in group]
    sums: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}
    steps = len(walk.batches)
    with _watched(layers) as seen:
        for batch, (value, found) in enumerate(
            spread(lambda b: _run(walk, seen, index, b), range(steps))
        ):
            walk.given[batch] = value
            for name, (square, rows) in found.items():
                sums[name] = sums[name] + square if name in sums else square
                tokens[name] = tokens.get(name, 0) + rows
            work.progress("measure importance", index * steps + batch, len(walk.blocks) * steps)
    if not known:
        _save(work, index, {n: (sums[n] / max(1, tokens[n])).float().numpy() for n in sums}, tokens)
    walk.drop(index)


@dataclass
class _Seen(threading.local):
    """Sums of squares of one batch, by tensor, on the thread that runs it."""

    mask: Tensor | None = None
    found: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def note(self, name: str, value: Tensor) -> None:
        rows = rows_of(value, self.mask)
        square, count = self.found.get(name, (0, 0))
        self.found[name] = rows.double().square().sum(0) + square, count + len(rows)


@contextmanager
def _watched(layers: list[Layer]) -> Iterator[_Seen]:
    """Inside, what enters the layers is added up."""
    seen = _Seen()

    def hook(name: str) -> Any:
        def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.note(name, args[0])

        return note

    with ExitStack() as hooks:
        for layer in layers:
            handle = layer.linear.register_forward_pre_hook(hook(layer.source))
            hooks.callback(handle.remove)
        yield seen


def _run(
    walk: Walk, seen: _Seen, index: int, batch: int
) -> tuple[Tensor, Mapping[str, tuple[Tensor, int]]]:
    """A block's activations on one batch, and the sums of squares [in] and rows by tensor."""
    seen.mask, seen.found = walk.batches[batch].mask, {}
    with torch.inference_mode():
        return walk.run(index, batch, walk.given[batch]), seen.found


def _save(
    work: Work, index: int, found: Mapping[str, Float32], tokens: Mapping[str, int]
) -> None:
    codes.add_importance(work.folder, index, found)
    rows = [
        LayerReport(name, "skipped", f"left to the engine's own types; importance of its "
                    f"{len(values)} inputs over {tokens[name]} tokens")
        for name, values in found.items()
    ]  # fmt: skip
    codes.add_part(work.folder, index, codes.Part({}, layers=rows))
