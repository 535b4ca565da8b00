"""What a change of each weight costs in the model's answers, to second order.

For a decoder or classifier the cost of a small change d of the weights is half d F d^T in KL
divergence, with F the Fisher information: the mean of (g d)^2 over labels drawn from the model's
own answers, g their log-probability's gradient (Martens 2020, section 5). One backward run of a
window with a drawn label at each position gives one unbiased sample for every tensor at once. For
vectors (embeddings, a module's outputs) a random direction takes the labels' place: the cost is
half the squared change.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompile.calibration.batches import Batch
from edgecompile.calibration.walk import fast_attention
from edgecompile.model import Model
from edgecompile.modules import flat_outputs
from edgecompile.numerics.parallel import one_thread_a_piece, spread
from edgecompile.numerics.swap import parameter_names
from edgecompile.reference import Reference

SEED = 20_261_122
Changes = Mapping[str, Sequence[Tensor]]  # source tensor -> changes [out, in] to weigh


@dataclass(frozen=True)
class Sensitivity:
    """The source model and what to weigh: half precision is enough for the changes."""

    model: Model
    changes: Changes

    def costs(
        self, batches: Sequence[Batch], progress: Callable[[int], None]
    ) -> dict[str, list[float]]:
        """The cost of each change alone, per token or text, by source tensor."""
        reference = Reference(self.model, fast_attention(self.model))
        module = reference.torch_module() if self.model.task == "embedding" else reference.body
        names = parameter_names(reference.body, self.changes)
        owned = [reference.body.get_parameter(names[name]) for name in self.changes]
        for parameter in owned:
            parameter.requires_grad_(True)
        totals = {name: [0.0] * len(given) for name, given in self.changes.items()}
        count = 0

        def one(index: int) -> tuple[list[list[float]], int]:
            value, samples = probe(module, batches[index], self.model.task, SEED + index)
            gradients = torch.autograd.grad(value, owned, allow_unused=True)
            return [
                [_half_square(gradient, change) for change in given]
                for gradient, given in zip(gradients, self.changes.values(), strict=True)
            ], samples

        with one_thread_a_piece():
            for done, (found, samples) in enumerate(spread(one, range(len(batches)))):
                progress(done)
                count += samples
                for name, costs in zip(totals, found, strict=True):
                    totals[name] = [a + b for a, b in zip(totals[name], costs, strict=True)]
        return {name: [cost / count for cost in costs] for name, costs in totals.items()}


def _half_square(gradient: Tensor | None, change: Tensor) -> float:
    return 0.0 if gradient is None else 0.5 * float((gradient * change).sum()) ** 2


def probe(module: nn.Module, batch: Batch, task: str, seed: int) -> tuple[Tensor, int]:
    """A number whose gradient samples the Fisher information, and how many answers it covers."""
    chance = torch.Generator().manual_seed(seed)
    result = module(**batch.inputs)
    if task in ("text-generation", "fill-mask") or "classification" in task:
        scores = torch.log_softmax(result.logits.flatten(0, -2), dim=-1)
        drawn = torch.multinomial(scores.detach().exp(), 1, generator=chance)
        return scores.gather(1, drawn).sum(), len(scores)
    outputs = flat_outputs(result)
    value = sum((o * torch.randn(o.shape, generator=chance)).sum() for o in outputs)
    assert isinstance(value, Tensor)
    return value, len(outputs[0])
