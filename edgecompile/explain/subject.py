"""What is explained: a bundle, the model that it was made of, and what its sealed files hold."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgecompile import build
from edgecompile.backends import Decoded
from edgecompile.checks import sealed
from edgecompile.checks.limits import own_types
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.recheck import Recheck, loaded, source_of
from edgecompile.runtime.manifest import Manifest, read_manifest
from edgecompile.sources import SourceRef
from edgecompile.text.parts import Corpus
from edgecompile.verify import verify_files

LARGEST = 1_000_000_000  # parameters whose float32 weights are held twice
FLOAT_BITS = 16  # of a tensor that stays as it is, as in [quantize] overrides
REST = "the rest"  # the group of tensors outside all layers


@dataclass(frozen=True)
class Options:
    """What the user asked for, as on the command line."""

    bundle: Path
    source: str | None = None
    data: Path | None = None
    texts: int = 64  # of an encoder; pictures, sounds
    tokens: int = 1024  # of a decoder, or to be guessed
    evaluations: int = 64  # of the model, while layers are restored
    text: str = ""  # whose attention and saliency are shown; else a held-out one
    with_text: bool = False  # whether tokens of the user's own text may be shown
    limits: Mapping[str, float] | None = None  # stricter ones, by metric


@dataclass(frozen=True)
class Subject:
    """The bundle with its source; `model` has no codes of its own, `decoded` has the bundle's."""

    options: Options
    manifest: Manifest
    ref: SourceRef
    model: Model
    decoded: Decoded
    corpus: Corpus

    @property
    def data(self) -> Mapping[str, Any]:
        """The manifest."""
        return self.manifest.data

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Tensors without codes that are not the source's: of a pass, or an engine's own type."""
        return tuple(sealed.changed_floats(self.data))

    @cached_property
    def bits(self) -> dict[str, int]:
        """Bits of each tensor with codes, by source name, in the source's order."""
        quantized = self.decoded.quantized
        schemes = {row["name"]: row["scheme"] for row in self.data["tensors"]}
        return {n: int(re.findall(r"\d+", schemes[n])[0]) for n in self.order if n in quantized}

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All tensors that differ from the source, by their layers' numbers."""
        there = {*self.decoded.quantized, *self.changed} & set(self.model.weights)
        return tuple(sorted(there, key=_numbered))

    @property
    def folded(self) -> bool:
        """Whether a pass moved scales between tensors: one alone then means nothing."""
        return bool(set(self.changed) - own_types(self.data).keys())

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Tensors by layer (`model.layers.5`); one outside all layers is a group by itself."""
        found: dict[str, list[str]] = {}
        for name in self.order:
            layer = re.match(r".*?\.\d+(?=\.)", name)
            own = REST if self.folded else name.rpartition(".")[0]
            found.setdefault(layer[0] if layer else own, []).append(name)
        return {name: tuple(tensors) for name, tensors in found.items()}

    @cached_property
    def units(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """By layer, what can be restored by itself: each tensor, or all of a folded layer."""
        return {
            name: (tensors,) if self.folded else tuple((one,) for one in tensors)
            for name, tensors in self.groups.items()
        }


def _numbered(name: str) -> list[tuple[int, str]]:
    """`layers.10` comes after `layers.9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def open_bundle(options: Options, progress: Progress) -> Subject:
    """Verify, find the source, decode; UnsupportedError (3) for what cannot be explained."""
    manifest = read_manifest(options.bundle)
    _refuse(manifest)
    verify_files(options.bundle)
    asked = Recheck(options.bundle, options.source, options.data)
    ref = source_of(asked, manifest)
    model = loaded(ref, manifest, progress)
    decoded = sealed.decode(options.bundle, manifest.data)
    corpus = build.corpus_of(ref.recipe, options.data, model.task)
    subject = Subject(options, manifest, ref, model, decoded, corpus)
    if not subject.order:
        raise UnsupportedError(
            f"explain {options.bundle}", "all its tensors are the source's, as floats",
            "a bundle with quantized weights", "see what its check says of the engine",
        )  # fmt: skip
    return subject


def _refuse(manifest: Manifest) -> None:
    """What has too many weights."""
    parameters = int(manifest.data["model"]["parameters"])
    if parameters > LARGEST:
        raise UnsupportedError(
            f"explain {manifest.name}", f"{parameters:,} parameters", f"at most {LARGEST:,}",
            "read the errors of its passes: edgecompile inspect --format json",
        )  # fmt: skip
