"""Text, pictures and sound for calibration and checks, in parts that are kept apart."""
from __future__ import annotations

import dataclasses
from pathlib import Path

from edgecompile.errors import BadInputError
from edgecompile.recipe import DataSpec
from edgecompile.tasks import IMAGE_TEXT, TASKS
from edgecompile.text import captions
from edgecompile.text.corpus import default_corpus, key_of, read
from edgecompile.text.files import read_documents
from edgecompile.text.parts import Corpus, Document
from edgecompile.text.pictures import default_pictures, read_pictures
from edgecompile.text.sounds import default_sounds, read_sounds

__all__ = ["Corpus", "Document", "corpus_for", "default_corpus", "read"]


def corpus_for(spec: DataSpec, file: Path | str | None = None, task: str = "") -> Corpus:
    """What --data names, else the recipe's [data], else the default prose, pictures or sounds."""
    chosen = file or spec.file
    if task == IMAGE_TEXT:
        return captions.corpus(Path(chosen) if chosen else None, spec.text)
    if task and TASKS[task].takes == "picture":
        return read_pictures(Path(chosen)) if chosen else default_pictures()
    if task and TASKS[task].takes == "sound":
        return read_sounds(Path(chosen), spec.text) if chosen else default_sounds()
    found = read(Path(chosen), spec.text, spec.label) if chosen else default_corpus()
    return _apart(found, spec) if spec.calibration else found


def _apart(found: Corpus, spec: DataSpec) -> Corpus:
    """The corpus with a calibration file's documents; its own calibration part is held out too.

    What stands in the other parts as well is left out of calibration.
    """
    own = read_documents(Path(spec.calibration), spec.text, spec.label)
    held_out = (*found.held_out, *found.calibration)
    seen = {key_of(document) for document in (*held_out, *found.tuning)}
    kept = tuple(document for document in own if key_of(document) not in seen)
    if not kept:
        raise BadInputError(
            spec.calibration, f"{len(own)} documents, all of which the check has too",
            "text of its own",
        )  # fmt: skip
    return dataclasses.replace(found, calibration=kept, held_out=held_out)
