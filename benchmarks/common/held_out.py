"""Held-out windows of text, the source's logits on them, and how far an engine's are from those."""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompile.metrics.logits import compared_window
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.reference import Reference
from edgecompile.tokenizer import tokenizer_json

WINDOW = 512  # tokens
DOMAINS = {"tutorial": "python-tutorial.txt", "drama": "drama.txt"}
CALIBRATION = "python-library.txt"  # the only text that calibration and fine-tuning read
Window = NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """Means of one window of text; surprisals and divergence in nats."""

    kl: float
    top1: float
    surprisal: float
    source_surprisal: float


@dataclass(frozen=True)
class Summary:
    """Over all windows of a domain; `kl_error` is the standard error of the mean by window."""

    kl: float
    kl_error: float
    perplexity: float
    source_perplexity: float
    top1: float

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Summary:
        """Every window has the same number of tokens, so a mean of means is the mean."""
        kl = np.array([score.kl for score in scores])
        return cls(
            float(kl.mean()), float(kl.std(ddof=1) / math.sqrt(len(kl))),
            math.exp(np.mean([score.surprisal for score in scores])),
            math.exp(np.mean([score.source_surprisal for score in scores])),
            float(np.mean([score.top1 for score in scores])),
        )  # fmt: skip


def windows(model: Model, text: Path, tokens: int) -> list[Window]:
    """tokens / WINDOW windows int64 [WINDOW], spread evenly over the whole text.

    Each begins with what the tokenizer puts before every text (a begin token, or nothing).
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json(model.folder))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    start = tokenizer.encode("").ids
    ids = tokenizer.encode(text.read_text("utf-8"), add_special_tokens=False).ids
    count, size = tokens // WINDOW, WINDOW - len(start)
    if not count or len(ids) < count * size:
        raise SystemExit(f"{text}: {len(ids)} tokens do not give {count} windows of {WINDOW}")
    places = np.linspace(0, len(ids) - size, count).astype(int)
    return [np.array(start + ids[place : place + size], np.int64) for place in places]


class Source:
    """The source's float32 logits on `found` windows, computed once and kept as a file."""

    def __init__(self, model: Model, found: Sequence[Window], folder: Path) -> None:
        asked = model.source.digest.encode() + np.stack(found).tobytes()
        digest = hashlib.sha256(asked).hexdigest()[:16]
        self.windows = found
        self._file = folder / f"source-{digest}.npy"
        if not self._file.exists():
            self._write(Reference(model, "sdpa"))

    def logits(self, index: int) -> Float32:
        """float32 [WINDOW, vocabulary] of one window, mapped from disk."""
        found: Float32 = np.load(self._file, mmap_mode="r")[index]
        return found

    def _write(self, reference: Reference) -> None:
        first = reference.logits(self.windows[0].tolist())
        partial = self._file.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        shape = len(self.windows), *first.shape
        every = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
        for index, ids in enumerate(self.windows):
            every[index] = first if not index else reference.logits(ids.tolist())
        every.flush()
        partial.rename(self._file)


def compare(source: Source, found: Iterable[Float32]) -> list[Score]:
    """One score a window; `found` yields float32 [WINDOW, vocabulary] in the windows' order."""
    scores = []
    for index, (ids, logits) in enumerate(zip(source.windows, found, strict=True)):
        rows = compared_window(ids, [source.logits(index)], [logits])
        means = (rows.kl, rows.top1, rows.found, rows.source)
        scores.append(Score(*(float(column.mean()) for column in means)))
    return scores


def save(file: Path, about: dict[str, object], domains: dict[str, list[Score]]) -> None:
    """A row's result: what is known of it, and every window's score by domain."""
    scores = {name: [asdict(score) for score in found] for name, found in domains.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({**about, "domains": scores}, indent=1), "utf-8")
    partial.rename(file)
