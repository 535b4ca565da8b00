"""Whether a list of blocks can be walked: each takes what the one before it gave, and only that."""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgecompile.calibration.batches import Batch

Blocks = Sequence[tuple[str, nn.Module]]
FEW = 2


class _EnoughError(Exception):
    """Ends a run when enough blocks have run."""


@dataclass
class Chain:
    """What a run of the true model shows: the blocks in order of use, what each took and gave."""

    order: list[nn.Module] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Members of the tuple that a block gives, activations first; 0: the activations alone."""
        first = self.given[0] if self.given else None
        return len(first) if isinstance(first, tuple) else 0

    def walkable(self, blocks: Blocks) -> bool:
        """Whether blocks run once each, in order, on the very tensor that the one before gave.

        Its shape must not change either. Nothing (a function, a sum) may stand between two blocks,
        nor may they hand on more than one tensor: a walk would leave it out.
        """
        values = [one[0] if isinstance(one, tuple) and one else one for one in self.given]
        more = [other for one in self.given if isinstance(one, tuple) for other in one[1:]]
        tensors = all(isinstance(value, Tensor) for value in (*self.taken, *values))
        expected = [block for _, block in blocks][: len(self.order)]
        return (
            tensors and bool(values) and self.order == expected and more == [None] * len(more)
            and all(a is b for a, b in zip(self.taken[1:], values, strict=False))
            and len({tuple(value.shape) for value in (*self.taken, *values)}) == 1
        )  # fmt: skip


def chain(body: nn.Module, blocks: Blocks, batch: Batch, short: bool) -> Chain:
    """Run the model on one batch, or `short` only FEW blocks, and note how they hang together."""
    found = Chain()

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if short and len(found.given) == FEW:
            raise _EnoughError
        found.order.append(module)
        found.taken.append(args[0] if args else None)

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        found.given.append(output)

    with ExitStack() as hooks, torch.inference_mode(), suppress(_EnoughError):
        for _, block in blocks:
            hooks.callback(block.register_forward_pre_hook(before).remove)
            hooks.callback(block.register_forward_hook(after).remove)
        body(**batch.inputs)
    return found


def given_by_block(value: Tensor, width: int) -> Any:
    """Activations in the form in which a block gives them (Chain.width)."""
    return (value, *[None] * (width - 1)) if width else value
