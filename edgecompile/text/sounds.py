"""Sound for checks: the user's folder of WAV files, or seeded sounds like a voice's."""
from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.errors import BadInputError
from edgecompile.runtime.audio import AudioInput
from edgecompile.text.parts import Corpus, Document, Recording, split

TABLES = ("*.jsonl", "*.csv")  # which say what is said in a file
FILE, TEXT = "file", "text"  # their columns
MADE = 192  # seeded sounds
MADE_RATE = 16_000
SIZE_LIMIT = 64 << 20  # bytes of a table


def default_sounds() -> Corpus:
    """Seeded sounds of a made-up voice: no words are in them, so word errors are not proven.

    No package here ships speech; a folder named with --data does better.
    """
    pairs = []
    for number in range(MADE):
        key = f"sound {number}"
        pairs.append((key, Document(key, None, recording=Recording(None, number))))
    return split("made-up voice", pairs)


def read_sounds(folder: Path, text: str = TEXT) -> Corpus:
    """A folder of WAV files; a JSONL or CSV in it may say by `file` what is said, in `text`.

    Split by a hash of their bytes, so equal ones never stand in two parts.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".wav")
    if not files:
        raise BadInputError(str(folder), "no WAV files in it", "files with .wav")
    said = _texts(folder, text)
    pairs = []
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        label = said.get(file.relative_to(folder).as_posix())
        pairs.append((digest, Document(digest, label, recording=Recording(file))))
    corpus = split(folder.name, pairs)
    if not corpus.held_out:
        found = f"{len(files)} files leave no held-out one"
        raise BadInputError(str(folder), found, "more of them; about 30 always are enough")
    return corpus


def open_sound(document: Document, audio: AudioInput) -> NDArray[np.float32]:
    """The document's samples float32 [n] at the model's rate."""
    sound = document.recording
    if sound is None:
        raise BadInputError("sound", "a text", "a sound", "name a folder with --data")
    if sound.file is not None:
        return audio.samples(sound.file)
    made = made_up(sound.number, audio.n_samples / audio.sampling_rate)
    return audio.samples(made, rate=MADE_RATE)[: audio.n_samples]


def made_up(number: int, longest: float) -> NDArray[np.float32]:
    """A sound like a voice: syllables of three formants over a gliding pitch, hisses, pauses.

    float32 [n] at 16 kHz, of at most `longest` seconds; the number is the seed.
    """
    rng = np.random.default_rng(number)
    parts, left = [], min(longest, float(rng.uniform(1.0, 8.0)))
    while left > 0.1:
        seconds = min(left, float(rng.uniform(0.1, 0.35)))
        kind = rng.random()
        part = _hiss(rng, seconds) if kind < 0.2 else _vowel(rng, seconds)
        parts.append(part * (kind > 0.1))  # some are pauses
        left -= seconds
    sound = np.concatenate(parts) if parts else np.zeros(1)
    noise = rng.standard_normal(sound.size) * 10 ** rng.uniform(-4, -2)
    return np.asarray(0.3 * sound + noise, np.float32)


def _vowel(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    """Harmonics of a gliding pitch, loud near three formants (Peterson and Barney 1952)."""
    time = np.arange(int(seconds * MADE_RATE)) / MADE_RATE
    pitch = rng.uniform(80, 260) * np.linspace(1, rng.uniform(0.8, 1.2), time.size)
    formants = rng.uniform((250, 800, 2000), (900, 2300, 3400))
    phase = 2 * np.pi * np.cumsum(pitch) / MADE_RATE
    sound = np.zeros(time.size)
    for harmonic in range(1, int(3800 / pitch.max())):
        near = ((harmonic * pitch.mean() - formants) / 120) ** 2
        sound += np.sin(harmonic * phase) * np.sum(1 / (1 + near)) / harmonic**0.5
    return np.asarray(sound * np.hanning(time.size))


def _hiss(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    noise = rng.standard_normal(int(seconds * MADE_RATE))
    return np.asarray(np.diff(noise, prepend=0.0) * np.hanning(noise.size) / 3)


def _texts(folder: Path, column: str) -> dict[str, str]:
    """What the folder's tables say is said, by path below the folder."""
    found: dict[str, str] = {}
    for file in sorted(file for pattern in TABLES for file in folder.glob(pattern)):
        if file.stat().st_size > SIZE_LIMIT:
            raise BadInputError(str(file), f"{file.stat().st_size} bytes", f"at most {SIZE_LIMIT}")
        for number, row in enumerate(_rows(file), 1):
            name, said = row.get(FILE), row.get(column)
            if not isinstance(name, str) or not isinstance(said, str):
                expected = f"texts {FILE!r} and {column!r}"
                raise BadInputError(f"{file}: row {number}", f"{dict(row)!r:.200}", expected)
            found[name] = said
    return found


def _rows(file: Path) -> list[Mapping[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, csv.Error, RecursionError) as error:
        raise BadInputError(str(file), str(error)[:300], "UTF-8 JSON lines, or CSV") from error
    if any(not isinstance(row, dict) for row in rows):
        raise BadInputError(str(file), "a line that is no object", "objects")
    return rows
