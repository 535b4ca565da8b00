"""The models before the one that was exported: what came in, and what each stage made of it.

They are asked as the step `kept` asks: by text each in its own tokens, by token in the exported
model's, whose old ids the others know.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgecompile.checks.kept_vocab import BY_TOKEN
from edgecompile.checks.limits import KEPT
from edgecompile.checks.renumbered import Renumbered
from edgecompile.model import Model, Reshaped
from edgecompile.pruning import vocab
from edgecompile.reference import Reference
from edgecompile.report import StageValue
from edgecompile.tasks import has_tokenizer
from edgecompile.text.source_tokens import FolderTokens, SourceTokens

# What a stage of a recipe that writes another checkpoint is called after it ran, in this order.
MADE: Mapping[str, str] = {"attention": "windowed", "prune": "pruned", "distill": "distilled"}
BY_TEXT = ("embedding", "classification", "text-ranking")  # asked in text: each has its own tokens


@dataclass(frozen=True)
class Earlier:
    """A model before the exported one; `stage` is empty for what came in.

    `old_ids` are its ids of the exported model's tokens, where these have others.
    """

    stage: str
    model: Model
    tokens: SourceTokens | None
    old_ids: Sequence[int] | None

    @property
    def what(self) -> str:
        """For the progress bar, and for what was asked already."""
        return f"ask the {self.stage} model" if self.stage else "ask the model that came in"

    def reference(self) -> Reference:
        """The model in torch."""
        if self.old_ids is None:
            return Reference(self.model, lean=True)
        return Renumbered(self.model, self.old_ids, lean=True)


@dataclass(frozen=True)
class Chain:
    """What came in, what stages made of it that are still here, and what the last is called."""

    origin: Earlier
    between: tuple[Earlier, ...]
    last: str


def chain_of(model: Model, max_length: int) -> Chain | None:
    """None for a model that is as it came in, or that cannot be asked the same: `left_out` says so.

    A stage whose model is gone is measured together with the next: `pruned and distilled`.
    """
    if model.origin is None or not model.reshaped or not _same_inputs(model):
        return None

    def earlier(stage: str, one: Model) -> Earlier:
        tokens = FolderTokens(one, max_length) if has_tokenizer(model.task) else None
        old = vocab.old_ids(model, one) if model.task in BY_TOKEN else None
        return Earlier(stage, one, tokens, old)

    between, names = list[Earlier](), list[str]()
    for made in model.reshaped:
        names.append(MADE[made.stage])
        if made.model is not None:
            between.append(earlier(" and ".join(names), made.model))
            names.clear()
    return Chain(earlier("", model.origin), tuple(between), " and ".join(names))


def _same_inputs(model: Model) -> bool:
    """Whether the origin can be asked what the model is asked."""
    if model.origin is None or not has_tokenizer(model.task) or model.task in (*BY_TEXT, *BY_TOKEN):
        return True
    return vocab.old_ids(model, model.origin) is None


def left_out(model: Model | None, values: Iterable[StageValue]) -> Iterator[str]:
    """A note for each stage before quantizing that was not measured, and why."""
    if model is None or not model.reshaped:
        return
    if not any(one.metric.startswith(KEPT) for one in values):
        names = " and ".join(MADE[made.stage] for made in model.reshaped)
        yield f"where it was lost before quantizing ({names}) was not measured: {_why(model)}"
        return
    for made in model.reshaped[:-1]:
        if made.model is None:
            yield (f"stage {MADE[made.stage]} was not measured by itself, but with the next: "
                   f"{_gone(made)}")  # fmt: skip


def _why(model: Model) -> str:
    if not _same_inputs(model):
        return "the model that came in has other tokens"
    return "this comparison does not hold models of this size or task beside each other"


def _gone(made: Reshaped) -> str:
    if not made.digest:
        return "the manifest is of a version that did not name it"
    return f"its checkpoint {made.digest[:16]} is not in this machine's cache any more"
