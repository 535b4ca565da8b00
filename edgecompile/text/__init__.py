"""Text and pictures for calibration and checks: where they come from, their parts kept apart."""
from __future__ import annotations

from pathlib import Path

from edgecompile.recipe import DataSpec
from edgecompile.tasks import IMAGE_TEXT, TASKS
from edgecompile.text import captions
from edgecompile.text.corpus import default_corpus, read
from edgecompile.text.parts import Corpus, Document
from edgecompile.text.pictures import default_pictures, read_pictures

__all__ = ["Corpus", "Document", "corpus_for", "default_corpus", "read"]


def corpus_for(spec: DataSpec, file: Path | str | None = None, task: str = "") -> Corpus:
    """What --data names, else the recipe's [data], else the default prose or pictures."""
    chosen = file or spec.file
    if task == IMAGE_TEXT:
        return captions.corpus(Path(chosen) if chosen else None, spec.text)
    if task and TASKS[task].takes == "picture":
        return read_pictures(Path(chosen)) if chosen else default_pictures()
    return read(Path(chosen), spec.text, spec.label) if chosen else default_corpus()
