"""Which tokens an answer hangs on, by gradient x input, of the source and of the bundle.

s_i = | sum_d e_id df / de_id | of token i, with e_i the vector that the embedding gives it (Denil,
Demiraj and de Freitas 2014, Extraction of Salient Sentences, section 3; Shrikumar et al. 2016,
Not Just a Black Box, section 2). f is one number of the answer, the same function on both sides,
chosen by the source: log p of the token that it thinks comes next, of its class, or the mean over
tokens of log p of its choice; of an embedding the product of the pooled vector, before it is
normalized, with the source's; of a score the score. Tokens of an answer so far count as those of
the text that it answers do.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.explain.inputs import TOKENS
from edgecompile.explain.shown import ShownInput
from edgecompile.explain.sides import Sides
from edgecompile.explain.subject import Subject
from edgecompile.metrics import Float64, rank
from edgecompile.tasks import IMAGE_TEXT, PAIRS, PER_TOKEN, SPEECH, TEXT_TO_TEXT, takes_text

if TYPE_CHECKING:
    from torch import Tensor, nn

Target = Callable[["Tensor"], "Tensor"]  # answers -> f


@dataclass(frozen=True)
class Saliency:
    """Of each token of the shown input, adding up to 1 on each side, and Spearman's rho.

    The last `answer` of them are those of an answer so far.
    """

    source: Float64
    found: Float64
    correlation: float
    tokens: tuple[str, ...]
    answer: int = 0


def compare(subject: Subject, sides: Sides, shown: ShownInput | None) -> Saliency | str:
    """Both sides' saliency of the shown input; a sentence where the model reads no text."""
    if subject.model.task == SPEECH:
        return "tokens are a text model's: which frames of a sound count is not measured"
    if shown is None or not takes_text(subject.model.task):
        return "tokens are a text model's"
    answers = _answers(sides)
    target = _target(subject.model.task, answers(shown))
    source = _saliency(sides, shown, answers, target)
    with sides.compressed():
        found = _saliency(sides, shown, answers, target)
    answer = shown.named.get("decoder_input_ids")
    count = 0 if answer is None else answer.shape[1]
    return Saliency(source, found, rank.spearman(source, found), shown.words, count)


def _answers(sides: Sides) -> Callable[[ShownInput], Tensor]:
    """The answers to an input, from which f is taken."""
    import torch

    from edgecompile.numerics.pooled import PooledEncoder

    pooling, module = sides.model.pooling, sides.body
    if sides.model.task == "embedding" and pooling is not None:
        module = PooledEncoder(sides.body, replace(pooling, normalize=False)).eval()

    def run(shown: ShownInput) -> Tensor:
        named = {name: shown.named[name] for name in TOKENS if name in shown.named}
        named["attention_mask"] = torch.ones_like(named["input_ids"])
        if sides.model.task == IMAGE_TEXT:
            vector: Tensor = sides.body.get_text_features(**named).pooler_output  # type: ignore[operator]
            return vector[0]
        result: Any = module(**named)
        found: Tensor = result if isinstance(result, torch.Tensor) else result.logits
        return found[0]

    return run


def _target(task: str, source: Tensor) -> Target:
    """f, by what the source answers."""
    if task in ("embedding", IMAGE_TEXT):
        direction = (source / source.norm()).detach()
        return lambda found: found @ direction
    if task in PAIRS:
        return lambda found: found.sum()
    if task in ("text-generation", TEXT_TO_TEXT):
        return lambda found: found[-1].log_softmax(0)[source[-1].argmax()]
    chosen = source.argmax(-1, keepdim=True).detach()
    if task in PER_TOKEN:
        return lambda found: found.log_softmax(-1).gather(-1, chosen).mean()
    return lambda found: found.log_softmax(-1).gather(-1, chosen).sum()


def _saliency(
    sides: Sides, shown: ShownInput, answers: Callable[[ShownInput], Tensor], target: Target
) -> Float64:
    """|gradient x input| of each token, as shares of their sum."""
    import torch

    entered: list[Tensor] = []

    def leaf(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        entered.append(output.detach().requires_grad_(True))
        return entered[-1]

    with ExitStack() as hooks:
        for table in _tables(sides):
            hooks.callback(table.register_forward_hook(leaf).remove)
        with torch.enable_grad():
            gradients = torch.autograd.grad(target(answers(shown)), entered)
    sums = [(a * b)[0].sum(-1).abs() for a, b in zip(gradients, entered, strict=True)]
    found = torch.cat(sums).detach().double().numpy()
    total = found.sum()
    shares: Float64 = found / total if total else np.zeros_like(found)
    return shares


def _tables(sides: Sides) -> list[nn.Module]:
    """The embeddings that ids go through: an encoder-decoder has one table in two places."""
    from torch import nn

    body: Any = sides.body.text_model if sides.model.task == IMAGE_TEXT else sides.body
    weight = body.get_input_embeddings().weight
    return [m for m in body.modules() if isinstance(m, nn.Embedding) and m.weight is weight]
