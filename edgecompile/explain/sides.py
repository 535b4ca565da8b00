"""One torch module with two sets of weights: the source's floats, and what the bundle holds."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgecompile.explain.subject import Subject
from edgecompile.passes import Progress
from edgecompile.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sides:
    """The source outside of `compressed`; inside, the bundle, but for what is restored."""

    def __init__(self, subject: Subject, progress: Progress) -> None:
        from edgecompile.numerics.swap import parameter_names

        self.model = subject.model
        self.reference = Reference(subject.model, "eager")
        self.body = self.reference.body
        self.names = parameter_names(self.body, subject.order)  # source -> the module's
        self.source: dict[str, Tensor] = {}
        self.found: dict[str, Tensor] = {}
        for done, name in enumerate(self.names):
            progress("decode", done, len(self.names))
            self.source[name] = self._parameter(name).data
            self.found[name] = _values(subject, name).view(self.source[name].shape)
        progress("decode", len(self.names), len(self.names))

    def _parameter(self, name: str) -> nn.Parameter:
        return self.body.get_parameter(self.names[name])

    @contextmanager
    def compressed(
        self, restored: Collection[str] = (), instead: Mapping[str, Tensor] | None = None
    ) -> Iterator[None]:
        """Inside, weights are the bundle's; `restored` are the source's, `instead` are given."""
        chosen = {n: v for n, v in self.found.items() if n not in restored} | dict(instead or {})
        try:
            for name, value in chosen.items():
                self._parameter(name).data = value.view(self.source[name].shape)
            yield
        finally:
            for name in chosen:
                self._parameter(name).data = self.source[name]


def _values(subject: Subject, name: str) -> Tensor:
    """A tensor as the sealed files have it, float32."""
    import torch

    decoded = subject.decoded
    if name in decoded.quantized:
        return torch.from_numpy(decoded.quantized[name].dequantize())
    return torch.tensor(decoded.floats[name])
