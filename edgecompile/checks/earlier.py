"""The models before the one that was exported: what came in, and what each stage made of it.

They are asked as the step `kept` asks: by text each in its own tokens, by token in the exported
model's, whose old ids the others know.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edgecompile.checks.kept_vocab import BY_TOKEN
from edgecompile.checks.limits import KEPT
from edgecompile.checks.renumbered import Renumbered
from edgecompile.model import Model, Rounded
from edgecompile.pruning import vocab
from edgecompile.reference import Reference
from edgecompile.report import StageValue
from edgecompile.tasks import has_tokenizer
from edgecompile.text.source_tokens import FolderTokens, SourceTokens

# What a stage of a recipe that writes another checkpoint is called after it ran, in this order.
MADE: Mapping[str, str] = {"attention": "windowed", "prune": "pruned", "distill": "distilled"}
ROUNDED, LEARNED = "quantized", "learned"  # codes as they were chosen, and taught after
BY_TEXT = ("embedding", "classification", "text-ranking")  # asked in text: each has its own tokens


@dataclass(frozen=True)
class Earlier:
    """A model before the exported one; `stage` is empty for what came in.

    `old_ids` are its ids of the exported model's tokens, where these have others. With `codes` it
    is the exported model, which computes with them.
    """

    stage: str
    model: Model
    tokens: SourceTokens | None
    old_ids: Sequence[int] | None = None
    codes: Rounded | None = None

    @property
    def what(self) -> str:
        """For the progress bar, and for what was asked already."""
        return f"ask the {self.stage} model" if self.stage else "ask the model that came in"

    @contextmanager
    def asked(self) -> Iterator[Reference]:
        """The model in torch."""
        if self.old_ids is not None:
            yield Renumbered(self.model, self.old_ids, lean=True)
        elif self.codes is None or self.codes.quantized is None:
            yield Reference(self.model, lean=True)
        else:
            with Reference(self.model, lean=True).quantized(
                self.codes.quantized, self.codes.replaced
            ) as reference:
                yield reference


@dataclass(frozen=True)
class Chain:
    """What came in, what stages made of it that are still here, and what the last is called.

    `origin` is None where that is the model itself. `rounded` are codes before they were taught,
    and `codes` says what those that ship are called.
    """

    origin: Earlier | None
    between: tuple[Earlier, ...]
    last: str
    rounded: Earlier | None
    codes: str


def chain_of(model: Model, max_length: int) -> Chain | None:
    """None for a model that is as it came in, or that cannot be asked the same: `left_out` says so.

    A stage whose model is gone is measured together with the next: `pruned and distilled`.
    """

    def earlier(stage: str, one: Model, codes: Rounded | None = None) -> Earlier:
        tokens = FolderTokens(one, max_length) if has_tokenizer(model.task) else None
        old = None
        if one is not model and model.task in BY_TOKEN:
            old = vocab.old_ids(model, one)
        return Earlier(stage, one, tokens, old, codes)

    between, names = list[Earlier](), list[str]()
    origin = model.origin if model.reshaped and _same_inputs(model) else None
    for made in model.reshaped if origin is not None else ():
        names.append(MADE[made.stage])
        if made.model is not None:
            between.append(earlier(" and ".join(names), made.model))
            names.clear()
    if origin is None and model.rounded is None:
        return None
    codes, before = ROUNDED, None
    if model.rounded is not None:
        here = model.rounded.quantized is not None
        codes = LEARNED if here else f"{ROUNDED} and {LEARNED}"
        before = earlier(ROUNDED, model, model.rounded) if here else None
    came_in = earlier("", origin) if origin is not None else None
    return Chain(came_in, tuple(between), " and ".join(names), before, codes)


def _same_inputs(model: Model) -> bool:
    """Whether the origin can be asked what the model is asked."""
    if model.origin is None or not has_tokenizer(model.task) or model.task in (*BY_TEXT, *BY_TOKEN):
        return True
    return vocab.old_ids(model, model.origin) is None


def left_out(model: Model | None, values: Iterable[StageValue]) -> Iterator[str]:
    """A note for each stage that was not measured by itself, and why."""
    if model is None:
        return
    if model.reshaped and not any(one.metric.startswith(KEPT) for one in values):
        names = " and ".join(MADE[made.stage] for made in model.reshaped)
        yield f"where it was lost before quantizing ({names}) was not measured: {_why(model)}"
    else:
        for made in model.reshaped[:-1]:
            if made.model is None:
                yield _gone(MADE[made.stage], made.digest)
    if model.rounded is not None and model.rounded.quantized is None:
        yield _gone(ROUNDED, model.rounded.digest)


def _why(model: Model) -> str:
    if not _same_inputs(model):
        return "the model that came in has other tokens"
    return "the comparison ended before, or holds no two models of this size or task at once"


def _gone(stage: str, digest: str) -> str:
    why = f"what it made ({digest[:16]}) is not in this machine's cache any more"
    if not digest:
        why = "the manifest is of a version that did not name what it made"
    return f"stage {stage} was not measured by itself, but with the next: {why}"
