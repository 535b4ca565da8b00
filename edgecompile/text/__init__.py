"""Text for calibration and checks: where it comes from and how its parts are kept apart."""
from __future__ import annotations

from pathlib import Path

from edgecompile.recipe import DataSpec
from edgecompile.text.corpus import default_corpus, read
from edgecompile.text.parts import Corpus, Document

__all__ = ["Corpus", "Document", "corpus_for", "default_corpus", "read"]


def corpus_for(spec: DataSpec, file: Path | str | None = None) -> Corpus:
    """The file of --data, else the recipe's [data], else the default prose."""
    chosen = file or spec.file
    return read(Path(chosen), spec.text, spec.label) if chosen else default_corpus()
