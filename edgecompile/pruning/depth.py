"""What each block is worth: how little it turns what passes through it, or what losing it costs."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecompile.calibration.batches import Batch
from edgecompile.calibration.moments import rows_of
from edgecompile.calibration.walk import find_blocks
from edgecompile.modules import flat_outputs
from edgecompile.numerics.parallel import spread

Step = Callable[[int, int], None]


def influences(body: nn.Module, batches: Sequence[Batch], step: Step) -> list[float]:
    """Block influence: 1 - the mean cosine of what enters and leaves a block, over tokens.

    Men et al. 2024 (ShortGPT), eq. 1.
    """
    blocks = [block for _, block in find_blocks(body)]

    current = threading.local()

    def note(_module: nn.Module, args: tuple[Any, ...], named: Any, out: Any) -> None:
        before, after = entering(args, named), out[0] if isinstance(out, tuple) else out
        left, right = rows_of(before, current.mask), rows_of(after, current.mask)
        turned = 1 - functional.cosine_similarity(left, right, dim=-1)
        current.found.append((float(turned.sum()), len(left)))

    def one(batch: Batch) -> list[tuple[float, int]]:
        current.mask, current.found = batch.mask, []
        with torch.inference_mode():
            body(**batch.inputs)
        found: list[tuple[float, int]] = current.found
        return found

    totals, tokens = [0.0] * len(blocks), 0
    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_hook(note, with_kwargs=True).remove)
        for done, found in enumerate(spread(one, batches)):
            step(done, len(batches))
            totals = [a + b for a, (b, _) in zip(totals, found, strict=True)]
            tokens += found[0][1]
    step(len(batches), len(batches))
    return [total / max(tokens, 1) for total in totals]


def entering(args: tuple[Any, ...], named: Any) -> Tensor:
    """The activations that a block is called with."""
    found: Tensor = args[0] if args else named["hidden_states"]
    return found


def costs(
    module: nn.Module, body: nn.Module, batches: Sequence[Batch], gone: Sequence[int], step: Step
) -> dict[int, float]:
    """What each further block's loss costs, by its index, without the `gone` ones.

    The mean KL divergence of the whole model's answers and those without it; of vectors 1 - cosine.
    """
    blocks = [block for _, block in find_blocks(body)]
    left = [index for index in range(len(blocks)) if index not in gone]
    whole = list(spread(lambda batch: _answers(module, batch), batches))
    found = {}
    for done, index in enumerate(left):
        step(done, len(left))
        with skipped([blocks[one] for one in (*gone, index)]):
            parts = list(spread(lambda batch: _answers(module, batch), batches))
        gaps = [_gap(a, b) for a, b in zip(whole, parts, strict=True)]
        found[index] = sum(gap for gap, _ in gaps) / max(1, sum(count for _, count in gaps))
    step(len(left), len(left))
    return found


def _answers(module: nn.Module, batch: Batch) -> tuple[Tensor, bool]:
    """Rows [answers, width], as log-probabilities where they are logits."""
    with torch.inference_mode():
        result = module(**batch.inputs)
    logits = getattr(result, "logits", None)
    if logits is None:
        return flat_outputs(result)[0].flatten(0, -2), False
    rows = rows_of(logits, batch.mask) if logits.ndim == 3 else logits
    return rows.float().log_softmax(-1), True


def _gap(whole: tuple[Tensor, bool], part: tuple[Tensor, bool]) -> tuple[float, int]:
    (a, logits), (b, _) = whole, part
    if not logits:
        return float((1 - functional.cosine_similarity(a, b, dim=-1)).sum()), len(a)
    return float(functional.kl_div(b, a, reduction="sum", log_target=True)), len(a)


@contextmanager
def skipped(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, those blocks give back what enters them."""

    def pass_on(_module: nn.Module, args: tuple[Any, ...], named: Any, out: Any) -> Any:
        hidden = entering(args, named)
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    with ExitStack() as hooks:
        for block in blocks:
            handle = block.register_forward_hook(pass_on, with_kwargs=True)
            hooks.callback(handle.remove)
        yield
