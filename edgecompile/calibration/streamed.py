"""A decoder's logits with one block in memory: all windows through the first, the second, ..."""
from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompile.backends import Decoded
from edgecompile.calibration.batches import Batch
from edgecompile.calibration.walk import Layer, Walk, passed_through, set_weight
from edgecompile.errors import BadInputError
from edgecompile.model import Model, Weights
from edgecompile.numerics.schemes import Float32
from edgecompile.passes import Progress


class SealedWeights(Weights):
    """The source's tensors as the sealed files have them: from codes, changed by a pass, or kept.

    Each access reads the tensor anew: hold one at a time.
    """

    def __init__(self, source: Weights, decoded: Decoded, replaced: Collection[str]) -> None:
        super().__init__(source.infos)
        self._decoded, self._replaced = decoded, frozenset(replaced)

    def __getitem__(self, name: str) -> torch.Tensor:
        """float32 where the files hold it changed, else the source's own dtype."""
        if name in self._decoded.quantized:
            return torch.from_numpy(self._decoded.quantized[name].dequantize())
        if name in self._replaced:
            return torch.tensor(self._decoded.floats[name])
        return super().__getitem__(name)


@dataclass(frozen=True)
class Stream:
    """One run of windows through a model; `placed` are tensors that its module must have.

    `folder` takes the activations, `what` names the run on the progress bar.
    """

    model: Model
    folder: Path
    progress: Progress
    what: str
    placed: Collection[str] = ()

    def logits(
        self, windows: Sequence[NDArray[np.int64]], rows: int
    ) -> Iterator[Iterator[Float32]]:
        """Each window's logits in pieces float32 [<= rows, vocabulary], of token ids [n].

        A window's pieces are to be read before the next window is asked for. A model whose blocks
        form no chain runs window by window, its large layers read each time.
        """
        batches = [
            Batch({"input_ids": torch.from_numpy(ids)[None], "use_cache": False}) for ids in windows
        ]
        with closing(Walk(self.model, batches, self.folder, "eager")) as walk:
            self._refuse_lost(walk)
            if walk.whole:
                _feed(walk)
            else:
                for index in range(len(walk.blocks)):
                    self._advance(walk, index)
                _hold_outside(walk)
            for index, ids in enumerate(windows):
                self.progress(f"{self.what}, head", index, len(windows))
                with nullcontext() if walk.whole else _done(walk, index):
                    yield walk.reference.logit_chunks(ids.tolist(), rows)
            self.progress(f"{self.what}, head", len(windows), len(windows))

    def _refuse_lost(self, walk: Walk) -> None:
        if lost := sorted(set(self.placed) - set(walk.names.values())):
            raise BadInputError("sealed tensors", f"{lost[0]} is no parameter of the module")

    def _advance(self, walk: Walk, index: int) -> None:
        """Run all windows through a block, whose weights are in memory only meanwhile."""
        what = f"{self.what}, block {index + 1} of {len(walk.blocks)}"
        total = len(walk.batches)
        self.progress(what, 0, total)
        walk.hold(index)
        walk.advance(index, lambda batch: self.progress(what, batch + 1, total))
        walk.drop(index)


def _done(walk: Walk, window: int) -> AbstractContextManager[None]:
    """Inside, the blocks are passed through: the window's activations after them are known."""
    return passed_through(walk.blocks, walk.given[window], walk.width)


def _feed(walk: Walk) -> None:
    """Let layers that are read when they run have the walk's weights, not the source file's."""
    for name, feed in walk.reference.feeds.items():
        feed.supply = functools.partial(_read, walk, walk.names[name])


def _hold_outside(walk: Walk) -> None:
    """Read the head, or what else is fed outside of blocks, once for all windows."""
    inside = {id(module) for _, block in walk.blocks for module in block.modules()}
    for name, feed in walk.reference.feeds.items():
        if id(feed.owner) not in inside:
            feed.close()
            set_weight(Layer(walk.names[name], feed.owner), _read(walk, walk.names[name]))


def _read(walk: Walk, source: str) -> Tensor:
    return torch.from_numpy(walk.model.weights.float32(source))
