"""What a bundle says of itself, against what the source says today: settings, schemes, floats."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edgecompile import tokenizer
from edgecompile.bundle import pooling_section
from edgecompile.errors import EdgecompileError
from edgecompile.model import Model
from edgecompile.numerics.schemes import float_digest
from edgecompile.plan import make_pass
from edgecompile.recipe import PassChoice
from edgecompile.report import Row, exact
from edgecompile.sources.speech import speech_tokens
from edgecompile.tasks import LABELLED, SPEECH, takes_text

STEP = "sealed"
Manifest = Mapping[str, Any]


def rows(manifest: Manifest, model: Model, changed: list[str]) -> Iterator[Row]:
    """Exact rows; `changed` are floats that a pass, or the engine's own quantizer, made others."""
    expected = settings(manifest, model)
    wrong = [f"{name} ({found!r}, not {right!r})" for name, (found, right) in expected.items()
             if found != right]  # fmt: skip
    yield exact(STEP, "settings_differing", wrong, len(expected))
    chosen = schemes(manifest, model)
    if chosen:
        there = {entry["name"]: entry["scheme"] for entry in manifest["tensors"]}
        wrong = [f"{name} ({there[name]}, not {scheme})" for name, scheme in chosen.items()
                 if there.get(name, scheme) != scheme]  # fmt: skip
        yield exact(STEP, "schemes_differing", wrong, len(chosen))
    floats = [
        one for one in manifest["floats"] if one["name"] not in changed and "folded" not in one
    ]
    wrong = [one["name"] for one in floats if not _as_the_source(one, model)]
    yield exact(STEP, "source_floats_differing", wrong, len(floats))


def settings(manifest: Manifest, model: Model) -> dict[str, tuple[Any, Any]]:
    """By name: what the manifest states, and what the source gives by today's rules."""
    pictures, audio = model.pictures, model.audio
    found: dict[str, tuple[Any, Any]] = {
        "labels": (manifest["model"]["labels"],
                   tokenizer.labels(model.config) if model.task in LABELLED else []),
        "pooling": (manifest["pooling"], pooling_section(model)),
        "pictures": (manifest["pictures"], pictures.as_manifest() if pictures else None),
        "audio": (manifest.get("audio"), audio.as_manifest() if audio else None),
    }  # fmt: skip
    if model.task == SPEECH:
        found["speech"] = manifest["speech"], speech_tokens(model).as_manifest()
    if takes_text(model.task) and manifest["tokenizer"] and model.task != "text-generation":
        longest = tokenizer.longest(model)
        found["tokenizer.max_length"] = manifest["tokenizer"]["max_length"], longest
    section = tokenizer.generation(model)
    for name, right in (section or {}).items():
        stated = manifest["generation"].get(name)
        if name == "context_length":
            right = _shortest(manifest, right)
        found[f"generation.{name}"] = stated, right
    return found


def _shortest(manifest: Manifest, length: int) -> int:
    """The context of source, target and engine's file; older manifests do not state the target's.

    Then what is stated stands, as long as the source has it.
    """
    target = manifest["target_options"].get("context_length")
    engine = manifest["engine"].get("options", {}).get("context_length", 0)
    if target is None:
        return min(length, int(manifest["generation"]["context_length"]))
    return min(int(one) for one in (length, target, engine) if one)


def schemes(manifest: Manifest, model: Model) -> dict[str, str]:
    """The scheme that the recorded options give each tensor; nothing where bits were allocated."""
    stages = {entry["stage"] for entry in manifest["passes"]}
    entry = next((one for one in manifest["passes"] if one["stage"] == "quantize"), None)
    if entry is None or "allocate_bits" in stages:
        return {}
    try:
        chosen = make_pass(PassChoice(entry["stage"], entry["name"], entry["options"]))
    except EdgecompileError:  # options of another version: nothing to compare with
        return {}
    preview = getattr(chosen, "preview", None)
    return {name: one.name for name, one in preview(model).items()} if preview else {}


def _as_the_source(entry: Mapping[str, Any], model: Model) -> bool:
    """Whether a float's digest is that of the source's tensor in the dtype of the file."""
    name, dtype = entry["name"], entry["dtype"]
    if name not in model.weights:
        return False
    values = model.dense(name) + np.float32(entry.get("added", 0.0))
    if dtype != "float32":
        values = values.astype(dtype).astype("float32")
    return bool(float_digest(name, values, dtype) == entry["sha256"])
