"""prune_depth: whole blocks go, those that change least of what passes through them."""
from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgecompile.errors import UsageError
from edgecompile.model import Model, Weights
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import CHECKPOINT, NOTE, Effort, LayerReport, PassResult, Work
from edgecompile.passes.grid import in_range
from edgecompile.pruning.axes import shape_of
from edgecompile.structure import filled_in

PER_LAYER = ("layer_types", "no_rope_layers")  # of a config: one entry a block


@dataclass(frozen=True)
class PruneDepth:
    """`layers` are those that stay, or `ratio` the share that goes.

    By `influence` (ShortGPT: one look at each block) or `kl` (each block's loss measured, one after
    the other: slow, and sees what blocks do together).
    """

    name: ClassVar[str] = "prune_depth"
    reads_text: ClassVar[tuple[str, ...]] = ("calibration",)
    reads_target: ClassVar[bool] = False
    layers: int = 0
    ratio: float = 0.0
    by: Literal["influence", "kl"] = "influence"
    texts: int = 64  # or windows of a decoder
    length: int = 128  # tokens

    def __post_init__(self) -> None:
        """Refuse what means nothing, before anything is read."""
        in_range(
            self.name, texts=(self.texts, 1, 1e6), length=(self.length, 2, 1e6),
            layers=(self.layers, 0, 1e6), ratio=(self.ratio, 0, 0.99),
        )  # fmt: skip
        if bool(self.layers) == bool(self.ratio):
            found = "both layers and ratio" if self.layers else "neither layers nor ratio"
            raise UsageError("[prune]", found, "one of the two")

    def left(self, model: Model) -> int:
        """How many blocks stay; UsageError where that is none, or more than there are."""
        shape_of(model, 1)  # an architecture that we know
        there = int(filled_in(model).num_hidden_layers)
        left = self.layers or round(there * (1 - self.ratio))
        if not 1 <= left < there:
            found = f"{left} of {there} layers would stay"
            raise UsageError("[prune] layers", found, f"1 to {there - 1}")
        return left

    def headers(self, model: Model) -> Model:
        """The first blocks' headers, and the config."""
        return self._kept(model, list(range(self.left(model))))

    def preview(self, model: Model) -> dict[str, Scheme]:
        """No tensor gets codes."""
        return {}

    def effort(self, model: Model) -> Effort:
        """A forward pass of each text, or one for each block and block that goes."""
        there = int(filled_in(model).num_hidden_layers)
        runs = 1.0 if self.by == "influence" else float(there * (there - self.left(model)))
        products = runs * model.parameters * self.texts * min(self.length, 64)
        return Effort(products, float(model.parameters))

    def __call__(self, model: Model, work: Work) -> PassResult:
        """Write the shallower checkpoint; the model is that from here on."""
        from edgecompile.pruning import checkpoint

        gone = self._gone(model, work)
        there = int(filled_in(model).num_hidden_layers)
        kept = [index for index in range(there) if index not in gone]
        smaller = self._kept(model, kept)
        folder = work.folder / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        old = _old_names(model, kept)
        checkpoint.write(
            model, folder, smaller.config, list(smaller.weights),
            lambda name: model.weights[old[name]].contiguous(),
        )  # fmt: skip
        note = f"prune_depth: layers {', '.join(map(str, sorted(gone)))} of {there} went"
        (work.folder / NOTE).write_text(note, encoding="utf-8")
        rows = [_row(name, gone, shape_of(model, 1).layer) for name in model.weights]
        return PassResult(checkpoint.adopt(model, folder, note), tuple(rows))

    def _gone(self, model: Model, work: Work) -> list[int]:
        """Indices of the blocks that matter least."""
        from edgecompile.calibration.batches import text_batches
        from edgecompile.calibration.walk import fast_attention
        from edgecompile.pruning import depth
        from edgecompile.reference import Reference

        count = int(filled_in(model).num_hidden_layers) - self.left(model)
        reference = Reference(model, fast_attention(model))
        batches = text_batches(model, work.corpus().calibration, self.texts, self.length)
        if self.by == "influence":
            found = depth.influences(
                reference.body, batches,
                lambda done, total: work.progress("measure blocks", done, total),
            )  # fmt: skip
            return sorted(range(len(found)), key=lambda index: (found[index], index))[:count]
        module = reference.torch_module() if model.pooling else reference.body
        gone: list[int] = []
        while len(gone) < count:
            def step(done: int, total: int) -> None:
                work.progress("measure blocks", len(gone) * total + done, count * total)

            costs = depth.costs(module, reference.body, batches, gone, step)
            gone.append(min(costs, key=lambda index: (costs[index], index)))
        return gone

    def _kept(self, model: Model, kept: Sequence[int]) -> Model:
        """Headers and config with those blocks alone, numbered anew."""
        infos = model.weights.infos
        weights = Weights({new: infos[old] for new, old in _old_names(model, kept).items()})
        return dataclasses.replace(model, weights=weights, config=_config(model, kept))


def _old_names(model: Model, kept: Sequence[int]) -> dict[str, str]:
    """New tensor name -> the one that it had."""
    layer, new = shape_of(model, 1).layer, {old: index for index, old in enumerate(kept)}
    found = {}
    for name in model.weights:
        match = re.match(rf"{re.escape(layer)}(\d+)\.", name)
        if match is None:
            found[name] = name
        elif int(match[1]) in new:
            found[f"{layer}{new[int(match[1])]}.{name[match.end():]}"] = name
    return found


def _config(model: Model, kept: Sequence[int]) -> dict[str, Any]:
    config = filled_in(model)
    names = config.attribute_map
    changed: dict[str, Any] = {names.get("num_hidden_layers", "num_hidden_layers"): len(kept)}
    for name in PER_LAYER:
        entries = getattr(config, name, None)
        if entries is not None:
            changed[name] = [entries[index] for index in kept]
    return {**model.config, **changed}


def _row(name: str, gone: Sequence[int], layer: str) -> LayerReport:
    match = re.match(rf"{re.escape(layer)}(\d+)\.", name)
    if match is not None and int(match[1]) in gone:
        return LayerReport(name, "changed", "went with its layer", 1.0)
    return LayerReport(name, "skipped", "its layer stays" if match else "in no layer")
