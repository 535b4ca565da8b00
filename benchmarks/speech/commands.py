"""Short spoken commands: seeded sentences, and espeak-ng (Debian's `espeak-ng`) that speaks them.

Sentences are held out by a hash of their words, and a few voices are never heard in training.
"""
from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompile.runtime.resampling import resample
from edgecompile.runtime.wav import read_wave

RATE = 16_000  # hertz
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m7", "+f1", "+f2", "+f3", "+f5", "+klatt2", "+linda")
# Neither the accent nor the variants are among those above.
UNHEARD = ("en-gb-x-gbcwmd", "en-gb-x-gbcwmd+m5", "en-gb-x-gbcwmd+f4", "en-us+f4", "en-gb+m5")
HELD_OUT = 8  # one sentence in so many

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ROOMS = ["kitchen", "bedroom", "bathroom", "hall", "garage", "office", "garden", "attic"]
THINGS = ["light", "lamp", "heater", "fan", "radio", "blind", "speaker"]
NAMES = ["anna", "ben", "carla", "david", "emma", "frank", "grace", "henry"]
SOUNDS = ["jazz", "rock", "soul", "blues", "folk", "music"]


@dataclass(frozen=True)
class Utterance:
    """A sentence and how it is spoken: pitch 0 to 99, speed in words a minute."""

    text: str
    voice: str
    pitch: int
    speed: int


def number(value: int) -> str:
    """0 to 99 in words."""
    if value < len(ONES):
        return ONES[value]
    ten, one = TENS[value // 10 - 2], value % 10
    return f"{ten} {ONES[one]}" if one else ten


def sentence(rng: random.Random) -> str:
    """One of a few forms with its words drawn."""
    count, other = (number(rng.randrange(100)) for _ in range(2))
    room, thing, name = rng.choice(ROOMS), rng.choice(THINGS), rng.choice(NAMES)
    return rng.choice((
        f"turn {rng.choice(('on', 'off'))} the {room} {thing}",
        f"set the {room} {thing} to {count}",
        f"set a timer for {count} {rng.choice(('minutes', 'seconds', 'hours'))}",
        f"what is {count} {rng.choice(('plus', 'minus', 'times'))} {other}",
        f"play some {rng.choice(SOUNDS)} in the {room}",
        f"call {name} at {count}",
        f"open the {room} {rng.choice(('door', 'window'))}",
    ))  # fmt: skip


def is_held_out(text: str) -> bool:
    """Whether a sentence is kept from training."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT == 0


def utterances(count: int, seed: int, held_out: bool, unheard: bool = False) -> list[Utterance]:
    """`count` sentences of one side, by voices of training or by those that it never hears."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        text = sentence(rng)
        if is_held_out(text) != held_out:
            continue
        voice = rng.choice(UNHEARD) if unheard else rng.choice(ACCENTS) + rng.choice(VARIANTS)
        found.append(Utterance(text, voice, rng.randrange(30, 71), rng.randrange(150, 211)))
    return found


def speak(one: Utterance) -> NDArray[np.float32]:
    """Samples float32 [n] at RATE, from the first to the last that is no silence."""
    spoken = subprocess.run(
        ["espeak-ng", "-v", one.voice, "-p", str(one.pitch), "-s", str(one.speed), "--stdout",
         one.text], check=True, capture_output=True,
    )  # fmt: skip
    wave = read_wave(_with_length(spoken.stdout), one.text)
    samples = resample(wave.samples[:, 0], wave.rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.003)
    return samples[loud[0] : loud[-1] + 1]


def _with_length(raw: bytes) -> bytes:
    """espeak-ng writes a made-up length into a pipe: say that the data go to the end."""
    at = raw.index(b"data") + 4
    return raw[:at] + b"\xff\xff\xff\xff" + raw[at + 4 :]


def speak_all(found: Sequence[Utterance], longest: float) -> list[tuple[str, NDArray[np.float32]]]:
    """Text and samples of each that takes at most `longest` seconds."""
    with ThreadPoolExecutor(2) as pool:
        sounds = list(pool.map(speak, found))
    pairs = zip(found, sounds, strict=True)
    return [(one.text, sound) for one, sound in pairs if len(sound) <= longest * RATE]


def disturbed(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The same at another loudness, with white noise 10 to 50 dB below it."""
    gain, below = np.float32(10 ** rng.uniform(-1.0, 0.2)), 10 ** rng.uniform(-2.5, -0.5)
    noise = rng.standard_normal(samples.size, np.float32) * np.float32(samples.std() * below)
    return np.clip((samples + noise) * gain, -1, 1)


def write_wav(file: Path, samples: NDArray[np.float32]) -> None:
    """16-bit PCM at RATE."""
    import wave

    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
