"""How far the answers of a model with some weights changed are from the source's."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgecompile.checks.limits import TABLE
from edgecompile.explain.inputs import Inputs
from edgecompile.explain.sides import Sides
from edgecompile.metrics import Float64, cosine, error, mean, rank, worst
from edgecompile.passes import Progress
from edgecompile.tasks import IMAGE_TEXT, PAIRS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgecompile.reference import Reference

# Task -> what its divergence is, and in which unit.
KINDS = {
    "embedding": ("1 - cosine to the source", ""),
    "text-ranking": ("relative error of the scores", ""),
    "module": ("relative error of the outputs", ""),
    IMAGE_TEXT: ("1 - cosine to the source, mean over texts and pictures", ""),
}
KL = ("KL divergence from the source", "nats")


@dataclass(frozen=True)
class Distance:
    """One number to rank by, and metrics of the check on these few inputs."""

    divergence: float
    metrics: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)  # standard ones, of means

    def broken(self, limits: Mapping[str, float], margin: float = 0.0) -> dict[str, float]:
        """Metrics outside their limits, each with its limit; NaN is outside.

        With a `margin`, those too that are within by less than so many standard errors.
        """
        return {
            name: limits[name] for name, value in self.metrics.items()
            if name in limits
            and not _within(name, value, limits[name], margin * self.errors.get(name, 0.0))
        }  # fmt: skip


def _within(metric: str, value: float, limit: float, spare: float) -> bool:
    return value - spare >= limit if TABLE[metric][1] else value + spare <= limit


def _error(values: Float64) -> float:
    """The standard error of a mean, samples taken as independent."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


class _Rows(NamedTuple):
    """Of some samples: divergences, whether the first choice is kept, surprisals of both sides."""

    kl: Float64
    same: Float64
    source: Float64
    found: Float64


class Yardstick:
    """The source's answers to the inputs, computed once; `evaluations` counts the others."""

    def __init__(self, sides: Sides, inputs: Sequence[Inputs], progress: Progress) -> None:
        self.sides, self.inputs, self.evaluations = sides, inputs, 0
        self.task = sides.model.task
        self._module = _answering(sides.reference)
        self._source = []
        for done, one in enumerate(inputs):
            progress("answers of the source", done, len(inputs))
            self._source.append(self._answers(one))
        progress("answers of the source", len(inputs), len(inputs))

    @property
    def samples(self) -> int:
        """Answers that are compared: tokens, texts, pictures or calls."""
        return sum(len(rows) for rows in self._source)

    def __call__(
        self, restored: Collection[str] = (), instead: Mapping[str, Tensor] | None = None
    ) -> Distance:
        """The distance of the bundle's weights with some of them restored or changed."""
        self.evaluations += 1
        with self.sides.compressed(restored, instead):
            if self.task in KINDS:
                return self._of_vectors([self._rows(one) for one in self.inputs])
            return _of_choices(list(self._compared()), self.task)

    def _answers(self, one: Inputs) -> Tensor:
        """Answers of one call: log probabilities, or vectors."""
        rows = self._rows(one)
        return rows if self.task in KINDS else rows.log_softmax(1)

    def _rows(self, one: Inputs) -> Tensor:
        """Answers float32 [samples, width] of one call."""
        import torch

        from edgecompile.modules import flat_outputs

        with torch.inference_mode():
            result = self._module(**one.named)
            if self.task == "module":
                return torch.cat([value.flatten() for value in flat_outputs(result)])[None]
            if self.task == IMAGE_TEXT:  # a text's vector and a picture's, side by side
                return torch.cat([result.text_embeds, result.image_embeds], 1)
            answers = result if isinstance(result, torch.Tensor) else result.logits
            if one.at is not None:
                answers = answers[one.at]
            return answers.reshape(-1, answers.shape[-1]).float()

    def _compared(self) -> Iterator[_Rows]:
        """Distributions side by side, a call at a time."""
        for one, p in zip(self.inputs, self._source, strict=True):
            q = self._answers(one)
            kl = (p.exp() * (p - q)).sum(1).clamp(min=0)
            same = (p.argmax(1) == q.argmax(1)).double()
            nats = [_surprisals(side, one) for side in (p, q)]
            yield _Rows(*(value.double().numpy() for value in (kl, same, *nats)))

    def _of_vectors(self, found: Sequence[Tensor]) -> Distance:
        if self.task == "module":
            pairs = zip(self._source, found, strict=True)
            errors = np.array([error.relative_error(a.numpy(), b.numpy()) for a, b in pairs])
            most = worst(errors, 0.0, "lower")
            return Distance(mean(errors), {"relative_error": most})
        a, b = (np.concatenate([one.numpy() for one in side]) for side in (self._source, found))
        if self.task in PAIRS:
            order = rank.spearman(a[:, 0].astype(float), b[:, 0].astype(float))
            return Distance(error.relative_error(a, b), {"rank_correlation": order})
        if self.task == IMAGE_TEXT:
            towers = zip(np.split(a, 2, 1), np.split(b, 2, 1), strict=True)
            return _of_towers([cosine.cosines(*sides) for sides in towers])
        values = cosine.cosines(a, b)
        return Distance(1 - mean(values), {
            "cosine_mean": mean(values), "cosine_p1": worst(values, 0.01, "higher"),
            "rank_correlation": rank.measure(a, b).value,
        }, {"cosine_mean": _error(values)})  # fmt: skip


def _of_towers(cosines: Sequence[Float64]) -> Distance:
    """Of texts and of pictures: metrics of the worse, as the check judges each by itself."""
    lower = min(cosines, key=mean)
    return Distance(1 - mean(np.concatenate(cosines)), {
        "cosine_mean": mean(lower),
        "cosine_p1": min(worst(one, 0.01, "higher") for one in cosines),
    }, {"cosine_mean": _error(lower)})  # fmt: skip


def _answering(reference: Reference) -> nn.Module:
    """What gives the task's answers."""
    task = reference.model.task
    if task != IMAGE_TEXT and (task == "embedding" or reference.model.pictures is not None):
        return reference.torch_module()
    return reference.body


def _surprisals(log_probabilities: Tensor, one: Inputs) -> Tensor:
    """Nats of the tokens that are there to guess."""
    import torch

    if one.truth is None:
        return torch.zeros(0)
    truth = (one.truth if one.at is None else one.truth[one.at]).flatten()
    known = truth >= 0
    return -log_probabilities[known].gather(1, truth[known][:, None])[:, 0]


def _of_choices(parts: Sequence[_Rows], task: str) -> Distance:
    """Divergence and agreement of distributions; perplexity where tokens are guessed."""
    kl, same, source, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(source):
        agreement = {"class_agreement": mean(same)}
        return Distance(mean(kl), agreement, {"class_agreement": _error(same)})
    ratio = float(np.exp(found.mean() - source.mean()))
    return Distance(mean(kl), {
        "kl_mean": mean(kl), "kl_p999": worst(kl, 0.001, "lower"), "top1_agreement": mean(same),
        "perplexity_ratio": ratio,
    }, {
        "kl_mean": _error(kl), "top1_agreement": _error(same),
        "perplexity_ratio": ratio * _error(found - source),
    })  # fmt: skip
