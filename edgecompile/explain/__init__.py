"""`edgecompile explain`: which layers a bundle lost its quality in, and the change that mends it.

Source and bundle run in torch on the same held-out inputs, with the codes of the sealed files.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.explain import attention, noise, restored, saliency
from edgecompile.explain.apply import toml
from edgecompile.explain.change import Change, Widths, propose
from edgecompile.explain.inputs import held_out, size
from edgecompile.explain.search import by_unit, restore
from edgecompile.explain.shown import shown_input
from edgecompile.explain.sides import Sides
from edgecompile.explain.subject import Options, Subject, open_bundle
from edgecompile.explain.yardstick import KINDS, KL, Distance, Yardstick
from edgecompile.passes import Progress
from edgecompile.report.files import folder_of
from edgecompile.tasks import IMAGE_TEXT, SPEECH, takes_text

__all__ = ["Explanation", "Options", "Subject", "explain", "open_bundle"]


@dataclass(frozen=True)
class Explanation:
    """All that was found out; holds no text of the user's unless it was asked for by name."""

    subject: Subject
    now: Distance  # of the bundle's weights from the source
    limits: Mapping[str, float]
    noise: tuple[noise.LayerNoise, ...]
    restored: tuple[restored.Restored, ...]  # layers and then tensors, the worst first
    change: Change
    attention: tuple[attention.Attention, ...] | str  # by part, or why there is none
    saliency: saliency.Saliency | str
    inputs: Mapping[str, int]  # how many were compared, and evaluations of the model
    failed: tuple[str, ...] | None  # metrics that the last check failed on, if there was one
    notes: tuple[str, ...]

    @property
    def kind(self) -> tuple[str, str]:
        """What the divergence is, and its unit."""
        return KINDS.get(self.subject.model.task, KL)

    @property
    def toml(self) -> str:
        """The change of the recipe; empty where there is none."""
        return toml(self.subject, self.change.bits) if self.change.bits else ""


def explain(subject: Subject, progress: Progress) -> Explanation:
    """Measure layers, restore them, look at attention and saliency, and propose a change."""
    options = subject.options
    sides = Sides(subject, progress)
    inputs = held_out(subject, sides.reference, progress)
    shown = shown_input(subject, inputs)
    signal = noise.layers(subject, sides, inputs, progress)
    yardstick = Yardstick(sides, inputs, progress)
    now = yardstick()

    def divergence(tensors: frozenset[str]) -> float:
        progress("restore", min(yardstick.evaluations, options.evaluations), options.evaluations)
        return yardstick(tensors).divergence

    parts = restore(
        tuple(subject.units.values()), now.divergence, divergence, options.evaluations
    )
    progress("restore", options.evaluations, options.evaluations)
    gains = by_unit(parts, lambda unit: _error(sides, unit))
    widths = Widths(subject, {**subject.ref.recipe.check.limits, **(options.limits or {})})
    failed = _failed(subject)
    change = propose(widths, yardstick, now, gains, failed)
    return Explanation(
        subject, now, widths.limits({}), tuple(signal),
        tuple(restored.rows(subject, parts, gains)), change,
        attention.compare(subject, sides, inputs, shown), saliency.compare(subject, sides, shown),
        {"calls": len(inputs), "elements": size(inputs), "samples": yardstick.samples,
         "evaluations": yardstick.evaluations},
        failed, tuple(_notes(subject)),
    )  # fmt: skip


def _error(sides: Sides, unit: tuple[str, ...]) -> float:
    """Relative squared error of a unit's weights, added up."""
    found = [noise.weight_noise(sides, name) for name in unit if name in sides.names]
    return sum(lost / signal for signal, lost in found if signal)


def _failed(subject: Subject) -> tuple[str, ...] | None:
    """Metrics that the check of these very bytes failed on; None where there is no report."""
    file = folder_of(subject.options.bundle) / "report.json"
    if not file.is_file():
        return None
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if report.get("manifest_sha256") != subject.manifest.digest:
        return None
    return tuple(row["metric"] for row in report["rows"] if row["verdict"] == "fail")


def _notes(subject: Subject) -> list[str]:
    """What these numbers leave out."""
    notes = ["answers are those of the codes in torch: what an engine adds is not in them"]
    if subject.model.origin is not None:
        notes.append("the source is the smaller model that was quantized, not the one it was "
                     "made of: what pruning or distilling lost is not in these numbers")
    if subject.folded:
        notes.append("a pass moved scales between a layer's tensors, so layers are restored as a "
                     "whole and no tensor's output is compared alone")
    if subject.model.task == IMAGE_TEXT:
        notes.append("metrics are those of texts or of pictures, of which is worse; what a "
                     "picture's vector hangs on is not measured, saliency is of a text's tokens")
    if subject.model.task == SPEECH:
        notes.append("maps of a sound's frames show them in blocks")
    if not takes_text(subject.model.task) and subject.options.text:
        notes.append("--text was not shown: the model reads none")
    if subject.data["engine"].get("options", {}).get("activations"):
        notes.append("the engine rounds activations to 8 bits; here they are floats")
    return notes
