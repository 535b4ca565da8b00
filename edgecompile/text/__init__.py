"""Text, pictures and sound for calibration and checks, in parts that are kept apart."""
from __future__ import annotations

from pathlib import Path

from edgecompile.recipe import DataSpec
from edgecompile.tasks import TASKS
from edgecompile.text.corpus import default_corpus, read
from edgecompile.text.parts import Corpus, Document
from edgecompile.text.pictures import default_pictures, read_pictures
from edgecompile.text.sounds import default_sounds, read_sounds

__all__ = ["Corpus", "Document", "corpus_for", "default_corpus", "read"]


def corpus_for(spec: DataSpec, file: Path | str | None = None, task: str = "") -> Corpus:
    """What --data names, else the recipe's [data], else the default prose, pictures or sounds."""
    chosen = file or spec.file
    if task and TASKS[task].takes == "picture":
        return read_pictures(Path(chosen)) if chosen else default_pictures()
    if task and TASKS[task].takes == "sound":
        return read_sounds(Path(chosen), spec.text) if chosen else default_sounds()
    return read(Path(chosen), spec.text, spec.label) if chosen else default_corpus()
