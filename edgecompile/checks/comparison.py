"""The two sides that a check compares, and what it asked them already."""
from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from edgecompile.backends import Decoded, ReadWhenAsked
from edgecompile.checks import Limits
from edgecompile.checks.renumbered import Renumbered
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.reference import Reference
from edgecompile.report import Row, judged, weighed
from edgecompile.runtime.worker_client import Worker
from edgecompile.statistics.verdicts import Errors
from edgecompile.text.source_tokens import SourceTokens

if TYPE_CHECKING:
    from edgecompile.checks.earlier import Chain

QUALITY, EXPORT = "quality", "export"
AT_ONCE = 64  # texts or pictures between two looks of the progress bar

Ids = Sequence[Sequence[int]]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Comparison:
    """What both steps need: the two sides, how much to measure, and the limits by metric."""

    worker: Worker
    model: Model  # the source
    decoded: Decoded
    source_tokens: SourceTokens | None
    options: Limits
    limits: Mapping[str, float]
    progress: Progress
    replaced: Collection[str] = ()  # float tensors that a pass changed
    against_codes: bool = True  # whether the same codes in torch are asked too
    old_ids: Sequence[int] | None = None  # the source's id of each of the bundle's, where not equal
    chain: Chain | None = None  # the models before the source, where passes made it of another
    errors: Errors = field(default_factory=Errors)  # that this look may spend
    sharing: int = 1  # metrics that share the rate of false alarms
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def reference(self) -> Reference:
        """The source in torch, made when it is first asked for."""
        if "reference" not in self.memo:
            self.memo["reference"] = (
                Reference(self.model, lean=True) if self.old_ids is None
                else Renumbered(self.model, self.old_ids, lean=True)
            )  # fmt: skip
        reference: Reference = self.memo["reference"]
        return reference

    def same_codes(self) -> AbstractContextManager[Any]:
        """Inside, the reference computes with what the sealed files hold in place of the source."""
        floats = ReadWhenAsked(self.replaced, self.decoded.floats.__getitem__)
        return self.reference.quantized(self.decoded.quantized, floats)

    def close(self) -> None:
        """Remove what the comparison kept on the disk; the worker is its owner's to close."""
        if (folder := self.memo.pop("folder", None)) is not None:
            folder.cleanup()

    @contextmanager
    def graph(self, failed: bool) -> Iterator[Worker]:
        """Who answers for the engine's graph: where something failed, not the shipped runtime."""
        if not failed:
            yield self.worker
            return
        with self.worker.by_installed_runtime() as installed:
            yield installed

    def judge(self, step: str, measured: Measurement) -> Row:
        """The measurement against its limit, if there is one: by its interval where it has one.

        An export is compared with its own codes: there is nothing to infer, and its value decides.
        """
        limit = self.limits.get(measured.metric)
        if step == EXPORT:
            return judged(step, measured, limit)
        return weighed(step, measured, limit, self.errors)

    def each(
        self, what: str, items: Sequence[T], key: Callable[[T], Hashable],
        run: Callable[[Sequence[T]], Sequence[R]], at_once: int = AT_ONCE,
    ) -> list[R]:  # fmt: skip
        """`run` of the items, some at a time; what an earlier look asked is not asked again.

        `what` names the answers, and the progress bar.
        """
        known: dict[Hashable, R] = self.memo.setdefault(what, {})
        new = [item for item in items if key(item) not in known]
        for start in range(0, len(new), at_once):
            self.progress(what, start, len(new))
            part = new[start : start + at_once]
            known.update(zip(map(key, part), run(part), strict=True))
        self.progress(what, len(new), len(new))
        return [known[key(item)] for item in items]


def need(tokens: SourceTokens | None) -> SourceTokens:
    """The source's tokenizer, which every model of text has."""
    if tokens is None:
        raise BadInputError("manifest", "no tokenizer for a model of text", "a tokenizer section")
    return tokens
