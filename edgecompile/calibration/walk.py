"""A model's blocks one after another, with the activations that enter each.

One block's weights are in memory at a time; what passes from block to block is in a file below the
stage's folder. Each block sees what the already quantized blocks before it give (GPTQ, section 3).
A model whose blocks do not simply follow one another is one block by itself.
"""
from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.calibration.batches import Batch
from edgecompile.calibration.chain import chain, given_by_block
from edgecompile.calibration.hidden import Hidden
from edgecompile.calibration.moments import Moments, rows_of
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.modules import flat_outputs
from edgecompile.numerics.parallel import spread
from edgecompile.numerics.swap import parameter_names
from edgecompile.reference import Reference
from edgecompile.structure import skeleton


@dataclass(frozen=True)
class Layer:
    """A matrix product inside a block: its source tensor and module."""

    source: str
    linear: nn.Linear


class _StopError(Exception):
    """Ends a run when all wanted inputs have been seen."""


@dataclass(frozen=True)
class _Seen:
    """Adds up what enters layers, and stops the run when all were seen."""

    moments: Mapping[str, Moments]
    mask: Tensor | None
    waiting: set[str]

    def note(self, name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self.moments[name].add(rows_of(args[0], self.mask))
        self.waiting.discard(name)
        if not self.waiting:
            raise _StopError


def fast_attention(model: Model) -> str:
    """torch's own attention where the model's class has it."""
    return "sdpa" if getattr(skeleton(model), "_supports_sdpa", False) else "eager"


class Walk:
    """A model's blocks in order, with the activations that enter the current one.

    `given` are activations after the quantized blocks, `source` those of the float model.
    """

    def __init__(
        self, model: Model, batches: Sequence[Batch], folder: Path, attention: str = ""
    ) -> None:
        self.model, self.batches = model, batches
        self.reference = Reference(model, attention or fast_attention(model), lean=True)
        self.body = self.reference.body
        self.names = {m: s for s, m in parameter_names(self.body, model.weights).items()}
        self.blocks = find_blocks(self.body)
        self.folder = folder / "activations"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        first, self._calls = self._entry()
        shapes = [tuple(value.shape) for value in first]
        self.given, self.source = (Hidden(self.folder / n, shapes) for n in ("given", "source"))
        for index, value in enumerate(first):
            self.given[index] = self.source[index] = value

    @property
    def whole(self) -> bool:
        """Whether the model is one block by itself, which takes a batch and no activations."""
        return self.blocks[0][0] == ""

    def close(self) -> None:
        """Remove the activations."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _entry(self) -> tuple[list[Tensor], list[list[_Call]]]:
        """What enters the first block, a batch; how each block is called, a batch and block.

        The blocks are passed through untouched and the last ends the run, so only what comes
        before them is computed.
        """
        if not self.batches:
            raise UnsupportedError(self.model.name, "no text to calibrate on")
        self.width = self._follow()
        hidden: list[Tensor] = []
        calls: list[list[_Call]] = []
        for batch in () if self.whole else self.batches:
            found: list[_Call] = []
            with _recorded(self.blocks, found, self.width), torch.inference_mode():
                run_until_stopped(self.body, batch)
            if len(found) != len(self.blocks) or any(c.first is not found[0].first for c in found):
                self.blocks = [("", self.body)]  # farther on something stands between two
                break
            hidden.append(found[0].first)
            calls.append([_Call(call.args, call.named, torch.empty(0)) for call in found])
        if not self.whole:
            return hidden, calls
        nothing = torch.empty(0)
        return [nothing] * len(self.batches), [[_Call((), b.inputs, nothing)] for b in self.batches]

    def _follow(self) -> int:
        """What blocks give, as Chain.width; takes the model as a whole if they form no chain."""
        if self.whole:
            return 0
        found = chain(self.body, self.blocks, self.batches[0], bool(self.reference.feeds))
        if not found.walkable(self.blocks):
            self.blocks = [("", self.body)]
        return found.width

    def layers(self, index: int) -> list[list[Layer]]:
        """The block's matrices in the order of their use, those with one input together."""
        groups: list[tuple[Tensor, list[Layer]]] = []

        def note(layer: Layer, _module: nn.Module, args: tuple[Any, ...]) -> None:
            if any(layer is member for _, members in groups for member in members):
                return  # used once more in the same block
            for value, members in groups:
                if value is args[0]:
                    members.append(layer)
                    return
            groups.append((args[0], [layer]))

        with ExitStack() as hooks:
            for layer in self._linears(index):
                hook = functools.partial(note, layer)
                hooks.callback(layer.linear.register_forward_pre_hook(hook).remove)
            self.run(index, 0, self.given[0])
        return [members for _, members in groups]

    def _linears(self, index: int) -> list[Layer]:
        path, block = self.blocks[index]
        inside = {f"{path}.{name}".strip("."): module for name, module in block.named_modules()}
        return [
            Layer(self.names[f"{name}.weight"], module) for name, module in inside.items()
            if isinstance(module, nn.Linear) and f"{name}.weight" in self.names
        ]  # fmt: skip

    def run(self, index: int, batch: int, hidden: Tensor) -> Tensor:
        """One block on one batch's activations; of a whole model all outputs, in one row."""
        call = self._calls[batch][index]
        with torch.inference_mode():
            if self.whole:
                outputs = flat_outputs(self.body(**call.named))
                return torch.cat([output.float().flatten() for output in outputs])
            out = self.blocks[index][1](hidden, *call.args, **call.named)
        found: Tensor = out if isinstance(out, Tensor) else out[0]
        return found

    def inputs(
        self, index: int, layer: Layer, activations: Hidden, step: int = 1
    ) -> Iterator[Tensor]:
        """What enters a layer, float32 [tokens, in] a batch; what comes after it is not run.

        Every `step`-th batch is run. A layer that a whole model uses more than once gets the rows
        of every use.
        """
        current = threading.local()

        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            current.rows.append(rows_of(args[0], current.mask))
            if not self.whole:
                raise _StopError

        def one(batch: int) -> Tensor:
            current.rows, current.mask = [], self.batches[batch].mask
            with suppress(_StopError):
                self.run(index, batch, activations[batch])
            if not current.rows:
                raise UnsupportedError(layer.source, "used by some texts of a batch only")
            return torch.cat(current.rows)

        handle = layer.linear.register_forward_pre_hook(hook)
        try:
            yield from spread(one, range(0, len(self.batches), step))
        finally:
            handle.remove()

    def advance(self, index: int, progress: Callable[[int], None]) -> None:
        """Run the block with the weights that it has now; what it gives enters the next one."""
        if self.whole:
            return  # nothing follows
        done = spread(lambda b: self.run(index, b, self.given[b]), range(len(self.batches)))
        for batch, value in enumerate(done):
            self.given[batch] = value
            progress(batch)

    def outside(self, sources: Collection[str]) -> dict[str, Moments]:
        """Inputs of matrices outside of blocks (an untied head, a classifier), by source tensor."""
        if self.whole:
            return {}
        linears = {
            self.names[f"{path}.weight"]: module for path, module in self.body.named_modules()
            if isinstance(module, nn.Linear) and self.names.get(f"{path}.weight") in sources
        }  # fmt: skip
        found = {name: Moments(linear.in_features) for name, linear in linears.items()}
        for index, batch in enumerate(self.batches if found else ()):
            with (
                ExitStack() as hooks, passed_through(self.blocks, self.given[index], self.width),
                torch.inference_mode(),
            ):  # fmt: skip
                seen = _Seen(found, batch.mask, set(found))
                for name, linear in linears.items():
                    hook = functools.partial(seen.note, name)
                    hooks.callback(linear.register_forward_pre_hook(hook, prepend=True).remove)
                run_until_stopped(self.body, batch)
        return found

    def hold(self, index: int) -> None:
        """Read the block's weights from the source, for as long as it is worked on."""
        owners = {id(layer.linear) for layer in self._linears(index)}
        for feed in self.reference.feeds.values():
            if id(feed.owner) in owners:
                feed.close()
        for layer in self._linears(index):
            set_weight(layer, torch.from_numpy(self.model.weights.float32(layer.source)))

    def drop(self, index: int) -> None:
        """Let go of a block's weights: it has run."""
        for layer in self._linears(index):
            set_weight(layer, torch.empty(0))
        self.model.weights.release()


def set_weight(layer: Layer, weight: Tensor) -> None:
    """Let a layer that is held compute with a weight float32 [out, in]."""
    layer.linear.weight = nn.Parameter(weight, requires_grad=False)


def find_blocks(body: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of each block: the outermost list of alike modules with the most weights.

    A module without such a list is one block by itself.
    """
    best: list[tuple[str, nn.Module]] = [("", body)]
    most = 0
    for path, module in body.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
        count = sum(linear.in_features * linear.out_features for linear in linears)
        if count > most:
            most = count
            best = [(f"{path}.{index}", child) for index, child in enumerate(module)]
    return best


@dataclass(frozen=True)
class _Call:
    """How a block was called: arguments after the activations, which are `first`."""

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    first: Tensor


@contextmanager
def _recorded(
    blocks: Sequence[tuple[str, nn.Module]], found: list[_Call], width: int
) -> Iterator[None]:
    """Inside, each block only notes its call and gives back its activations as they came.

    The last one's call ends the run.
    """

    def note(hidden: Tensor, *args: Any, **named: Any) -> Any:
        found.append(_Call(args, named, hidden))
        if len(found) == len(blocks):
            raise _StopError
        return given_by_block(hidden, width)

    for _, block in blocks:
        block.forward = note
    try:
        yield
    finally:
        for _, block in blocks:
            del block.forward


@contextmanager
def passed_through(
    blocks: Sequence[tuple[str, nn.Module]], last: Tensor, width: int = 0
) -> Iterator[None]:
    """Inside, blocks give back what they get, and the last one gives `last`."""
    originals = [block for _, block in blocks]
    for block in originals:
        given = last if block is originals[-1] else None

        def forward(
            hidden: Tensor, *_args: Any, _given: Tensor | None = given, **_named: Any
        ) -> Any:
            return given_by_block(hidden if _given is None else _given, width)

        block.forward = forward
    try:
        yield
    finally:
        for block in originals:
            del block.forward


def run_until_stopped(body: nn.Module, batch: Batch) -> None:
    """Run the whole module; a hook may end it."""
    try:
        body(**batch.inputs)
    except _StopError:
        return
