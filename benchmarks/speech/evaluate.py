"""Word error rates of a trained model and of its bundles on sentences that it never heard.

    python benchmarks/speech/evaluate.py MODEL [BUNDLE ...] [--count 150] [--write FOLDER]

Three tests: new sentences by voices of training, by other voices, and minutes of them in one file,
which is cut by timestamps. --write saves the first as WAV files with a JSONL, for `--data`.
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from commands import RATE, speak_all, utterances, write_wav
from machine import describe
from numpy.typing import NDArray
from transformers import AutoTokenizer, GenerationConfig

from edgecompile import sources
from edgecompile.metrics import wer
from edgecompile.reference import Reference
from edgecompile.runtime import Session, load
from edgecompile.sources.processors import source_front_end

Sound = tuple[str, NDArray[np.float32]]
SEED, LONGEST = 97, 3.9  # seconds
TESTS = {"heard voices": False, "other voices": True}
PAUSE, RECORDING = 0.4, 60  # seconds, sentences


def tests(count: int) -> dict[str, list[Sound]]:
    """Held-out sentences by test."""
    return {
        name: speak_all(utterances(count, SEED + unheard, held_out=True, unheard=unheard), LONGEST)
        for name, unheard in TESTS.items()
    }


def recording(sounds: Sequence[Sound]) -> Sound:
    """Several sentences one after the other, with pauses."""
    pause = np.zeros(int(PAUSE * RATE), np.float32)
    parts = [part for _, sound in sounds[:RECORDING] for part in (sound, pause)]
    return " ".join(text for text, _ in sounds[:RECORDING]), np.concatenate(parts)


def of_source(reference: Reference, sounds: Sequence[Sound]) -> list[str]:
    """transformers' own greedy transcripts."""
    audio = reference.model.audio
    assert audio is not None
    return [reference.transcribe(audio.prepare([sound])[0])[1] for _, sound in sounds]


def of_whole(reference: Reference, sound: NDArray[np.float32]) -> str:
    """transformers' own transcript of a long recording, by timestamps."""
    front = source_front_end(reference.model.folder)
    given = front(sound, sampling_rate=RATE, truncation=False, padding="longest",
                  return_attention_mask=True, return_tensors="pt")  # fmt: skip
    folder = reference.model.folder
    config = GenerationConfig.from_pretrained(folder)
    found = reference.body.generate(  # type: ignore[operator]
        given.input_features, attention_mask=given.attention_mask, generation_config=config,
        return_timestamps=True, task="transcribe",
    )  # fmt: skip
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return str(tokens.decode(found[0], skip_special_tokens=True))


def of_bundle(session: Session, sounds: Sequence[Sound]) -> tuple[list[str], float]:
    """Transcripts, and seconds of computing a second of sound."""
    session.transcribe(sounds[0][1])
    start = time.perf_counter()
    texts = [session.transcribe(sound).text for _, sound in sounds]
    seconds = time.perf_counter() - start
    return texts, seconds * RATE / sum(sound.size for _, sound in sounds)


def write(folder: Path, sounds: Sequence[Sound]) -> None:
    """WAV files, and texts.jsonl that says what is in them."""
    folder.mkdir(parents=True)
    lines = []
    for index, (text, sound) in enumerate(sounds):
        write_wav(folder / f"{index:03}.wav", sound)
        lines.append(json.dumps({"file": f"{index:03}.wav", "text": text}))
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """A Markdown table: a row the source and each bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("bundles", type=Path, nargs="*")
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe(options.threads), "\n")
    found = tests(options.count)
    if options.write:
        write(options.write, found["heard voices"])
    said = {name: [text for text, _ in sounds] for name, sounds in found.items()}
    words = {name: sum(len(text.split()) for text in texts) for name, texts in said.items()}
    print("words:", words)
    reference = Reference(sources.load(sources.resolve(str(options.model)), lambda *_: None))
    rates = [wer.rate(said[name], of_source(reference, found[name]))[0] for name in TESTS]
    size = sum(file.stat().st_size for file in options.model.glob("*.safetensors"))
    text, sound = recording(found["heard voices"])
    rates.append(wer.rate([text], [of_whole(reference, sound)])[0])
    cells = ["source (torch)", f"{size / 1e6:.2f}", *(f"{100 * rate:.2f}" for rate in rates)]
    print("\n| | MB | " + " | ".join(f"{name}, WER %" for name in TESTS)
          + " | recording, WER % | real-time factor |\n|---|---|---|---|---|---|")  # fmt: skip
    print("| " + " | ".join([*cells, ""]) + " |")
    for bundle in options.bundles:
        print("| " + " | ".join(row(bundle, found, options.threads)) + " |", flush=True)


def row(bundle: Path, found: dict[str, list[Sound]], threads: int) -> list[str]:
    """The cells of one bundle: the size is that of its model files."""
    with load(bundle, threads=threads) as session:
        sides = {name: of_bundle(session, sounds) for name, sounds in found.items()}
        text, sound = recording(found["heard voices"])
        long = wer.rate([text], [session.transcribe(sound).text])[0]
    rates = [wer.rate([t for t, _ in found[name]], sides[name][0])[0] for name in TESTS]
    size = sum(file.stat().st_size for file in (bundle / "model").rglob("*") if file.is_file())
    factor = sides["heard voices"][1]
    return [bundle.name, f"{size / 1e6:.2f}", *(f"{100 * rate:.2f}" for rate in rates),
            f"{100 * long:.2f}", f"{factor:.3f}"]  # fmt: skip


if __name__ == "__main__":
    main()
