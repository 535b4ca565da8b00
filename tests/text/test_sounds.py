"""Sounds for checks: a folder of WAV files with what is said in them, or made-up ones."""
from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from edgecompile.errors import BadInputError
from edgecompile.recipe import DataSpec
from edgecompile.runtime.audio import AudioInput
from edgecompile.text import corpus_for
from edgecompile.text.sounds import default_sounds, made_up, open_sound, read_sounds

AUDIO = AudioInput(16_000, 400, 160, 80, 32_000)
TASK = "automatic-speech-recognition"


def wav(file: Path, seed: int) -> None:
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        drawn = np.random.default_rng(seed).integers(-9000, 9000, 800)
        out.writeframes(drawn.astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(30):
        wav(tmp_path / f"{seed}.wav", seed)
    return tmp_path


def test_a_table_says_what_is_said(folder: Path) -> None:
    lines = [json.dumps({"file": f"{n}.wav", "text": f"number {n}"}) for n in range(30)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    found = read_sounds(folder)
    said = {d.recording.file.name: d.label for part in found.parts.values() for d in part}  # type: ignore[union-attr]
    assert said == {f"{n}.wav": f"number {n}" for n in range(30)}


def test_a_csv_with_another_column_does_too(folder: Path) -> None:
    rows = ["file,words", *(f"{n}.wav,w{n}" for n in range(30))]
    (folder / "texts.csv").write_text("\n".join(rows))
    assert read_sounds(folder, "words").labelled


def test_without_a_table_nothing_is_known_of_what_is_said(folder: Path) -> None:
    assert not read_sounds(folder).labelled


def test_a_row_without_its_text_is_refused_by_its_number(folder: Path) -> None:
    (folder / "texts.jsonl").write_text('{"file": "1.wav", "text": "a"}\n{"file": "2.wav"}\n')
    with pytest.raises(BadInputError, match="row 2"):
        read_sounds(folder)


def test_a_folder_without_wav_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no WAV files"):
        read_sounds(tmp_path)


def test_made_up_sounds_are_the_same_each_time_and_differ_among_each_other() -> None:
    assert np.array_equal(made_up(3, 2.0), made_up(3, 2.0))
    assert not np.array_equal(made_up(3, 2.0)[:9000], made_up(4, 2.0)[:9000])


def test_a_made_up_sound_fits_a_window_and_is_no_louder_than_full_scale() -> None:
    held_out = default_sounds().held_out
    samples = [open_sound(one, AUDIO) for one in held_out[:8]]
    assert all(0 < one.size <= AUDIO.n_samples for one in samples)
    assert max(float(np.abs(one).max()) for one in samples) < 10


def test_speech_without_data_takes_the_made_up_ones() -> None:
    assert corpus_for(DataSpec(), None, TASK).name == "made-up voice"
