"""How far a row's answers are from the source's: divergence of decoders, cosine of encoders."""
from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import encoders
import held_out
import numpy as np
from client import Client
from held_out import Source, Summary, Window
from rows import Setup

from edgecompile import sources
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.tokenizer import tokenizer_json

TEXTS = 64  # of each held-out domain
TEXT_TOKENS = 64  # texts are cut there, special tokens included
PROMPT_TOKENS = 49
Ids = Sequence[int]


@dataclass(frozen=True)
class Cosines:
    """Of one domain's texts, against the source."""

    worst: float
    first_percentile: float
    mean: float


class Texts:
    """What all rows of one model are asked, and the source's answers, computed once and kept."""

    def __init__(self, setup: Setup, data: Path, tokens: int) -> None:
        self.setup = setup
        self.model: Model = sources.load(sources.resolve(str(setup.model)), lambda *_: None)
        self._files = {name: data / file for name, file in held_out.DOMAINS.items()}
        self._tokens = tokens

    def prompt(self) -> tuple[list[int], str]:
        """PROMPT_TOKENS ids that begin the first held-out text, and the same as text."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(tokenizer_json(self.model.folder))
        text = next(iter(self._files.values())).read_text("utf-8")
        ids = tokenizer.encode(text[:5000]).ids[:PROMPT_TOKENS]
        prompt: str = tokenizer.decode(ids)
        if tokenizer.encode(prompt).ids != ids:
            raise SystemExit(f"{prompt!r} does not give the ids that it was made of")
        return ids, prompt

    def text_ids(self) -> dict[str, list[list[int]]]:
        """Domain -> ids of TEXTS paragraphs spread over its text, cut at TEXT_TOKENS."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(tokenizer_json(self.model.folder))
        tokenizer.no_padding()
        tokenizer.enable_truncation(TEXT_TOKENS)
        found = {}
        for name, file in self._files.items():
            parts = [part for part in file.read_text("utf-8").split("\n\n") if len(part) > 50]
            places = np.linspace(0, len(parts) - 1, TEXTS).astype(int)
            found[name] = [tokenizer.encode(parts[place]).ids for place in places]
        return found

    def full_text(self) -> list[int]:
        """The first text of exactly TEXT_TOKENS tokens."""
        every = (ids for domain in self.text_ids().values() for ids in domain)
        return next(ids for ids in every if len(ids) == TEXT_TOKENS)

    def vectors(self, domain: str, ids: Sequence[Ids]) -> Float32:
        """float32 [texts, dim] of the source in torch."""
        file = self.setup.work / f"vectors-{domain}-{len(ids)}x{TEXT_TOKENS}.npy"
        if not file.exists():
            source = encoders.Torch(self.setup.model, self.setup.threads)
            np.save(file, np.stack([source.embed(row) for row in ids]))
        found: Float32 = np.load(file)
        return found

    def windows(self, domain: str) -> Source:
        """A decoder's windows of a domain with the source's logits."""
        found = held_out.windows(self.model, self._files[domain], self._tokens)
        return Source(self.model, found, self.setup.work)


def measure(texts: Texts, client: Client, file: Path) -> None:
    """Every domain's figures of one row, kept as JSON."""
    found: dict[str, Any] = {}
    for domain in held_out.DOMAINS:
        if texts.setup.task == "embedding":
            found[domain] = asdict(_cosines(texts, domain, client))
        else:
            source = texts.windows(domain)
            scores = held_out.compare(source, _logits(client, source.windows))
            found[domain] = asdict(Summary.of(scores))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1), "utf-8")
    partial.rename(file)


def read(file: Path) -> dict[str, Any]:
    """What `measure` kept, by domain; empty if it is not there."""
    found: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        found = json.loads(file.read_text("utf-8"))
    return found


def _cosines(texts: Texts, domain: str, client: Client) -> Cosines:
    rows = texts.text_ids()[domain]
    wanted = texts.vectors(domain, rows)
    found = np.stack([client.embed(ids) for ids in rows])
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (wanted * found).sum(1) / lengths
    return Cosines(
        float(cosines.min()), float(np.percentile(cosines, 1)), float(cosines.mean())
    )


def _logits(client: Client, windows: Sequence[Window]) -> Iterator[Float32]:
    for ids in windows:
        yield client.logits(ids.tolist())
