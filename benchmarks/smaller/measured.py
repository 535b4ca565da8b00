"""Perplexity of folders and bundles on held-out windows, and tokens a second of bundles."""
from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from held_out import DOMAINS, WINDOW, Window, windows
from numpy.typing import NDArray

from edgecompile import sources
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.runtime import Session, load
from edgecompile.tokenizer import tokenizer_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Logits = NDArray[np.float32]  # [tokens, vocabulary]
PROMPT, NEW, ROUNDS = 32, 64, 7  # of speed


def texts(data: Path, tuning: Path) -> dict[str, Path]:
    """What is measured, and the tuning split that choices are made by."""
    return {"tuning": tuning, **{name: data / "text" / file for name, file in DOMAINS.items()}}


def perplexities(
    place: str, files: Mapping[str, Path], tokens: int, kept: Path
) -> dict[str, float]:
    """Of each text, over tokens / WINDOW windows; `kept` is the file that remembers."""
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text("utf-8"))
        return found
    model, logits = opened(place)
    found = {}
    for name, file in files.items():
        count = tokens if name in DOMAINS else min(tokens, 4096)
        found[name] = perplexity(windows(model, file, count), logits)
    kept.write_text(json.dumps(found), "utf-8")
    return found


def opened(place: str) -> tuple[Model, Callable[[Window], Logits]]:
    """Whose tokenizer cuts windows, and their logits: torch's, or the bundle's own."""
    path = Path(place)
    if (path / "manifest.json").is_file():
        session = load(path, "always")
        source = (path.parent / f"{path.name}.from").read_text("utf-8")
        ref = sources.resolve(source, task="text-generation")
        model = sources.load(ref, lambda *_: None)  # a GGUF source's tokenizer comes with loading
        return model, lambda ids: np.concatenate([part.copy() for part in session.logits(ids)])
    ref = sources.resolve(place, task="text-generation")
    model = sources.load(ref, lambda *_: None)
    reference = Reference(model, "sdpa")
    return model, lambda ids: reference.logits(ids.tolist())


def same_text(
    place: str, whole: Model, files: Mapping[str, Path], tokens: int, kept: Path
) -> dict[str, float]:
    """Perplexity a token of `whole`, of text that `place` may cut into other tokens.

    exp of all nats over whole's tokens, of windows that whole's tokenizer cuts.
    """
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text("utf-8"))
        return found
    from tokenizers import Tokenizer

    model, logits = opened(place)
    theirs, own = (Tokenizer.from_str(tokenizer_json(one.folder)) for one in (whole, model))
    found = {}
    for name, file in files.items():
        count = tokens if name in DOMAINS else min(tokens, 4096)
        cut = windows(whole, file, count)
        texts = [theirs.decode(ids.tolist(), skip_special_tokens=False) for ids in cut]
        nats = [_nats(own, text, len(theirs.decode([int(ids[0])])), logits)
                for ids, text in zip(cut, texts, strict=True)]  # fmt: skip
        found[name] = math.exp(sum(nats) / sum(len(ids) - 1 for ids in cut))
    kept.write_text(json.dumps(found), "utf-8")
    return found


def _nats(own: Tokenizer, text: str, first: int, logits: Callable[[Window], Logits]) -> float:
    """Surprisal of a text but for its `first` characters."""
    encoded = own.encode(text, add_special_tokens=False)
    ids = np.array(encoded.ids, np.int64)
    skipped = max(1, sum(1 for start, _ in encoded.offsets if start < first))
    every = _surprisals(ids, logits(ids))
    return float(every[skipped - 1 :].sum())


def perplexity(found: Sequence[Window], logits: Callable[[Window], Logits]) -> float:
    """exp of the mean surprisal of every token of a window but its first, in nats."""
    return math.exp(float(np.mean([_surprisals(ids, logits(ids)).mean() for ids in found])))


def _surprisals(ids: Window, logits: Logits) -> NDArray[np.float64]:
    """float64 [tokens - 1], in nats: of every token but the first."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(1, keepdims=True)
    chosen = rows[np.arange(len(rows)), ids[1:]]
    found: NDArray[np.float64] = np.log(np.exp(rows).sum(1)) - chosen
    return found


def megabytes(place: Path) -> float:
    """Of a bundle's model files, or a folder's weights (as they are stored)."""
    folder = place / "model"
    files = folder.iterdir() if folder.is_dir() else place.glob("*.safetensors")
    return sum(file.stat().st_size for file in files) / 1e6


def speeds(bundles: Mapping[str, Path], threads: int) -> dict[str, tuple[float, float]]:
    """Median and best tokens a second of each.

    In a process whose OpenMP threads spin: asleep between tasks (PASSIVE), as they are while the
    scripts train, they make llama.cpp up to six times slower.
    """
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"  # read once by a process, when it loads OpenMP
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_speeds, bundles, threads).result()


def _speeds(bundles: Mapping[str, Path], threads: int) -> dict[str, tuple[float, float]]:
    """They take turns, as neighbours disturb all."""
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(load(path, "always", threads))
            for name, path in bundles.items()
        }
        prompt = ["Once upon a time, far away, " * 20]  # in each one's own tokens
        ids = {name: one.tokenize(prompt)[0][:PROMPT] for name, one in sessions.items()}
        runs: dict[str, list[float]] = {name: [] for name in sessions}
        for at in range(ROUNDS + 1):
            for name, session in sessions.items():
                rate = _rate(session, ids[name])
                if at:  # the first round warms up
                    runs[name].append(rate)
    return {name: (median(found), max(found)) for name, found in runs.items()}


def _rate(session: Session, ids: Sequence[int]) -> float:
    tokens: Iterator[object] = session.generate_ids(ids, NEW)
    next(tokens)
    start = time.perf_counter()
    count = sum(1 for _ in tokens)
    return count / (time.perf_counter() - start)


__all__ = ["WINDOW", "megabytes", "perplexities", "same_text", "speeds", "texts"]
