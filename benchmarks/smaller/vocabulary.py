"""What a smaller vocabulary saves, and what it costs on text that it was not made for.

    python benchmarks/smaller/vocabulary.py MODEL --corpus FILE --asked FILE [--set KEY=VALUE]...
        [--characters 60000]

Prunes MODEL to the tokens of --corpus (all of it), once for each --set (max_vocab=8192,
min_count=2, ...), and asks about --asked: the share of texts and of tokens that encode otherwise,
and for a decoder bits a byte, for an encoder the cosine of embeddings, before and after.
"""
from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: for cores that others use too

if TYPE_CHECKING:
    from edgecompile.model import Model

PIECE = 2000  # characters


def main() -> None:
    """Print a row for the model as it is, then one for each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--asked", type=Path, required=True)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--characters", type=int, default=60_000)
    options = parser.parse_args()
    from edgecompile import sources

    whole = sources.load(sources.resolve(options.model), lambda *_: None)
    asked = texts(options.asked, options.characters)
    before = answers(whole, asked)
    print("setting | tokens | parameters | texts changed | tokens more | " + measure(whole))
    print(f"as it is | {tokens_in(whole)} | {whole.parameters:,} | | | {before}", flush=True)
    for setting in options.settings or ["min_count=1"]:
        with tempfile.TemporaryDirectory() as folder:
            smaller = pruned(options, setting, Path(folder) / "smaller")
            parts = [setting, str(tokens_in(smaller)), f"{smaller.parameters:,}",
                     *changes(whole, smaller, asked), answers(smaller, asked, whole)]  # fmt: skip
            print(" | ".join(parts), flush=True)


def texts(file: Path, characters: int) -> list[str]:
    """The file's documents, so many characters of them, in pieces."""
    from edgecompile.checks.kept_vocab import pieces
    from edgecompile.text.files import read_documents

    found: list[str] = []
    for piece in pieces((one.text for one in read_documents(file)), PIECE):
        if sum(map(len, found)) >= characters:
            break
        found.append(piece)
    return found


def pruned(options: argparse.Namespace, setting: str, out: Path) -> Model:
    """The model with the corpus' tokens."""
    from edgecompile.compress import compress
    from edgecompile.plan import Request

    settings = (f"prune.vocab.corpus={options.corpus.resolve()}", f"prune.vocab.{setting}")
    done = compress(Request(options.model, (), settings=settings), out, lambda *_: None)
    print(f"  {done.notes[-1]}")
    return done.model


def tokens_in(model: Model) -> int:
    """Rows of the embedding."""
    return int(model.config["vocab_size"])


def measure(model: Model) -> str:
    """What the last column is."""
    return "bits a byte" if model.task == "text-generation" else "cosine: mean, 1st percentile"


def changes(whole: Model, smaller: Model, asked: list[str]) -> Iterator[str]:
    """Shares of texts that are cut otherwise, and how many more tokens they all are."""
    from edgecompile.pruning import vocab

    old, new = (list(vocab.encoded(vocab.read(m).reader, asked)) for m in (whole, smaller))
    ids = vocab.old_ids(smaller, whole) or range(tokens_in(whole))
    changed = sum(a != [ids[one] for one in b] for a, b in zip(old, new, strict=True))
    more = sum(map(len, new)) / sum(map(len, old)) - 1
    yield f"{changed / len(asked):.1%} of {len(asked)}"
    yield f"{more:.2%}"


def answers(model: Model, asked: list[str], whole: Model | None = None) -> str:
    """Bits a byte of a decoder; cosines of embeddings to the `whole` model's."""
    import numpy as np

    from edgecompile.checks.kept_vocab import nats
    from edgecompile.metrics.cosine import cosines
    from edgecompile.reference import Reference
    from edgecompile.text.source_tokens import FolderTokens

    reference = Reference(model)
    rows = FolderTokens(model, 0 if model.pooling is None else model.pooling.max_length)
    if model.task == "text-generation":
        start = int(model.config["bos_token_id"])
        total = sum(
            nats(reference.logit_chunks(ids), ids)
            for ids in ([start, *row] for row in rows.encode(asked))
        )
        return f"{total / np.log(2) / sum(len(text.encode()) for text in asked):.4f}"
    if whole is None:
        return ""
    other = FolderTokens(whole, rows.max_length)
    values = cosines(Reference(whole).embed(other.encode(asked)),
                     reference.embed(rows.encode(asked)))  # fmt: skip
    return f"{values.mean():.4f}, {np.percentile(values, 1):.4f}"


if __name__ == "__main__":
    main()
