"""Models of texts and pictures (CLIP): a graph for each, whose vectors compare with each other."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .batching import activate
from .engine import Decoder, Engine, Float32, open_engine
from .errors import BadInputError, UsageError
from .manifest import IMAGE_TEXT, Manifest, PoolingInfo, SimilarityInfo
from .pictures import Picture

if TYPE_CHECKING:
    from .session import Session

TEXT, VISION = "text", "vision"
PIXELS = "pixel_values"
PADDING = 0  # not the tokenizer's: the highest id of a text may be what ends it
# Graph -> a task that it has by itself, and its ports among those of the manifest.
GRAPHS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    TEXT: ("embedding", ("input_ids", "text_embeds")),
    VISION: ("image-classification", (PIXELS, "image_embeds")),
}


class Towers:
    """Both graphs, each in an engine that opens one; each call goes to the one that it is for."""

    def __init__(self, text: Engine, vision: Engine) -> None:
        self._text, self._vision = text, vision
        self.version = text.version
        self.device: dict[str, Any] = dict(getattr(text, "device", {}))

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Of one graph: the pictures' for `pixel_values`, else the texts'."""
        return (self._vision if PIXELS in arrays else self._text).run(arrays)

    def encode(
        self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Sequence[Float32] | Float32:
        """The texts' vectors [n, dim] of the ids."""
        return self._text.encode(ids, types)

    def decoder(self, length: int) -> AbstractContextManager[Decoder]:
        """There is none."""
        raise UsageError("generate", "a bundle without a decoder", "task text-generation")

    def close(self) -> None:
        """Free both."""
        self._text.close()
        self._vision.close()


def open_towers(
    bundle: Path, manifest: Manifest, threads: int, provider: str
) -> Towers:
    """Open both graphs by what opens one."""
    parts = (_part(manifest, graph) for graph in GRAPHS)
    return Towers(*(open_engine(bundle, part, threads, PADDING, provider) for part in parts))


def _part(manifest: Manifest, graph: str) -> Manifest:
    """The manifest as if that graph were all: its file or method, its ports, a task of its own."""
    task, ports = GRAPHS[graph]
    engine, files = manifest.engine, manifest.engine.graphs
    if files and set(files) != set(GRAPHS):
        found, expected = f"{sorted(files)}", f"{', '.join(GRAPHS)}"
        raise BadInputError("manifest: engine.graphs", found, expected)
    options = engine.options if files else {**engine.options, "method": graph}
    own = replace(engine, file=files.get(graph, engine.file), options=options)
    sides = {side: [port for port in manifest.data[side] if port.get("name") in ports]
             for side in ("inputs", "outputs")}  # fmt: skip
    return replace(manifest, task=task, engine=own, data={**manifest.data, **sides})


def pooling_of(manifest: Manifest) -> PoolingInfo:
    """How a text's vector is made, of either kind of embedding."""
    if manifest.task == IMAGE_TEXT:
        return PoolingInfo("end", True, info_of(manifest).dimension)
    if manifest.pooling is None:
        raise BadInputError("manifest", "no pooling section", "one for an embedding model")
    return manifest.pooling


def info_of(manifest: Manifest) -> SimilarityInfo:
    """How the two compare; BadInputError where a manifest does not say."""
    if manifest.similarity is None:
        raise BadInputError("manifest", "no similarity section", f"one for {manifest.task}")
    return manifest.similarity


def embed_pictures(session: Session, pictures: Sequence[Picture]) -> Float32:
    """float32 [n, dim], one row of length 1 a picture."""
    if isinstance(pictures, str | bytes | Path) or not hasattr(pictures, "__len__"):
        raise UsageError("pictures", f"{pictures!r:.100}", "a list of pictures")
    if not len(pictures):
        return np.zeros((0, info_of(session.info).dimension), np.float32)
    return session.look(session.prepare(pictures))


def logits(session: Session, pictures: Sequence[Picture], texts: Sequence[str]) -> Float32:
    """float32 [pictures, texts]: e to the logit scale, times the cosine."""
    scale = np.float32(np.exp(info_of(session.info).logit_scale))
    return np.asarray(embed_pictures(session, pictures) @ session.embed(texts).T * scale)


def label(
    session: Session, pictures: Sequence[Picture], labels: Sequence[str]
) -> list[dict[str, float]]:
    """Label -> its share of all the labels' (softmax of the logits), for each picture."""
    if not labels or len(set(labels)) != len(labels):
        raise UsageError("labels", f"{list(labels)!r:.100}", "one or more, none of them twice")
    shares = activate(logits(session, pictures, labels), "softmax")
    return [dict(zip(labels, map(float, row), strict=True)) for row in shares]


def batch_of(manifest: Manifest) -> int | str:
    """The first size of the pictures' input: a number, or the name of one that varies."""
    for port in manifest.data["inputs"]:
        if port["name"] == PIXELS:
            size: int | str = port["shape"][0]
            return size
    return int(manifest.data["inputs"][0]["shape"][0])
