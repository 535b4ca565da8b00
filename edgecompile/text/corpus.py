"""Where a build's text comes from: the user's file, or prose that every installation has."""
from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

from edgecompile import cache
from edgecompile.errors import BadInputError, MissingLibraryError
from edgecompile.text import files, prose
from edgecompile.text.parts import Corpus, Document, split

# Folders whose docstrings explain rather than repeat; the models of transformers mostly repeat.
LIBRARIES = {
    "numpy": ("**/*.py",),
    "torch": (
        "*.py", "nn/**/*.py", "optim/**/*.py", "distributions/**/*.py", "utils/**/*.py",
        "autograd/**/*.py", "fx/**/*.py", "export/**/*.py", "ao/**/*.py",
    ),
    "transformers": (
        "*.py", "utils/*.py", "generation/**/*.py", "pipelines/*.py", "integrations/*.py",
        "quantizers/*.py",
    ),
}  # fmt: skip
GRAM = 8  # words
SHARED_GRAMS = 0.1  # a paragraph with more of its grams seen before is a near duplicate
SEED = "edgecompile-1"


def default_corpus() -> Corpus:
    """Prose from the docstrings of the installed numpy, torch and transformers.

    A source file's paragraphs stay in one part; none is a near duplicate of another; the same
    library versions give the same digests. Imports none of the libraries; cached.
    """
    modules = ("edgecompile.text.corpus", "edgecompile.text.prose", "edgecompile.text.parts")

    def work(folder: Path) -> None:
        (folder / "pairs.json").write_text(json.dumps(chosen_paragraphs()), "utf-8")

    folder, _ = cache.stage("text", cache.key("text", modules=modules), work)
    pairs = json.loads((folder / "pairs.json").read_text("utf-8"))
    return split("docstrings", ((key, Document(text)) for key, text in pairs))


def chosen_paragraphs() -> list[tuple[str, str]]:
    """Pairs (source file, paragraph) without near duplicates, in a seeded order."""
    kept, seen = [], set[int]()
    for key, text in _library_paragraphs():
        grams = word_grams(text)
        if len(grams & seen) <= SHARED_GRAMS * len(grams):
            kept.append((key, text))
            seen |= grams
    return sorted(kept, key=lambda pair: hashlib.sha256(f"{SEED}|{pair[1]}".encode()).digest())


def read(path: Path, column: str = "text", label: str = "label") -> Corpus:
    """A corpus from the user's JSONL, CSV with a header, or text file; labels are optional.

    Documents are split by a hash of their text, so equal texts never stand in two parts.
    """
    documents = files.read_documents(path, column, label)
    corpus = split(path.name, ((key_of(document), document) for document in documents))
    if empty := [part for part, found in corpus.parts.items() if not found]:
        raise BadInputError(
            str(path),
            f"{len(documents)} documents leave the part {empty[0]} empty",
            "enough for three parts; about 30 documents always are",
            "give more documents, or split long ones into paragraphs",
        )
    return corpus


def key_of(document: Document) -> str:
    """What makes documents the same: the text, but for white space and capitals."""
    return " ".join(document.text.split()).casefold()


def word_grams(text: str) -> set[int]:
    """Hashes of all runs of GRAM words, letters and digits only, in lower case."""
    words = "".join(c if c.isalnum() else " " for c in text.casefold()).split()
    runs = (" ".join(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1)))
    return {int.from_bytes(hashlib.blake2b(r.encode(), digest_size=8).digest()) for r in runs}


def _library_paragraphs() -> Iterator[tuple[str, str]]:
    """Yield (library/path, paragraph) in sorted order of files."""
    for library, patterns in LIBRARIES.items():
        spec = importlib.util.find_spec(library)
        if spec is None or spec.origin is None:
            raise MissingLibraryError(
                "default text", f"{library} is not installed", "its docstrings to read",
                'pip install "edgecompile[compile]", or name a file with --data',
            )  # fmt: skip
        root = Path(spec.origin).parent
        found = {path.relative_to(root).as_posix() for g in patterns for path in root.glob(g)}
        for name in sorted(found):
            if "tests/" in name:
                continue
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                texts = prose.from_file(root / name)
            yield from ((f"{library}/{name}", text) for text in texts)
