from __future__ import annotations

import contextlib
import io
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from edgecompile.runtime import audio
from edgecompile.runtime.audio import AudioInput
from edgecompile.runtime.errors import BadInputError
from edgecompile.runtime.resampling import resample
from edgecompile.runtime.wav import read_wave

RATE = 16_000
Samples = NDArray[np.float32]

SECTION = {
    "sampling_rate": RATE, "n_fft": 400, "hop_length": 160, "n_mels": 80, "n_samples": 2 * RATE,
    "padding_value": 0.0,
}  # fmt: skip


def wanted(**changes: Any) -> AudioInput:
    return AudioInput.from_manifest({**SECTION, **changes})


WHISPER = wanted()


def tone(hertz: float, seconds: float, rate: int = RATE) -> Samples:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32) / 2


def noise(seconds: float) -> Samples:
    drawn = np.random.default_rng(0).standard_normal(int(seconds * RATE))
    return (drawn / 10).astype(np.float32)


def voice() -> Samples:
    """Harmonics of 120 Hz that swell three times a second, in a little noise."""
    swell = 1 + np.sin(2 * np.pi * 3 * np.arange(2 * RATE) / RATE)
    harmonics = sum(tone(120 * n, 2) / n for n in range(1, 30))
    return (harmonics * swell / 8 + noise(2) / 10).astype(np.float32)


CLIPS = {
    "noise": noise(2), "voice": voice(), "tone": tone(440, 2), "short": noise(0.3),
    "silence": np.zeros(100, np.float32), "empty": np.zeros(0, np.float32),
}  # fmt: skip


def padded(clip: Samples) -> Samples:
    return np.pad(clip, (0, 2 * RATE - clip.size))


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_a_spectrogram_is_that_of_transformers_in_float64(clip: Samples, mels: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=2)
    expected = extractor._np_extract_fbank_features(padded(clip)[None], "cpu")
    found = wanted(n_mels=mels).prepare([clip])
    assert found.shape == (1, mels, 200)
    assert np.abs(found - expected).max() < 2e-7


# torch's float32 leaves its own noise beside loud tones: there the two ways of transformers differ
# from each other by as much.
@pytest.mark.parametrize(("name", "tolerance"), [
    ("noise", 1e-5), ("short", 1e-5), ("silence", 1e-6), ("voice", 5e-5), ("tone", 5e-5),
])  # fmt: skip
def test_a_spectrogram_is_that_of_transformers_by_torch(name: str, tolerance: float) -> None:
    extractor = WhisperFeatureExtractor(chunk_length=2)
    expected = extractor(CLIPS[name], sampling_rate=RATE, return_tensors="np")["input_features"]
    assert np.abs(WHISPER.prepare([CLIPS[name]]) - expected).max() < tolerance


def test_other_settings_are_followed_too() -> None:
    extractor = WhisperFeatureExtractor(
        feature_size=20, sampling_rate=24_000, hop_length=100, chunk_length=1, n_fft=512,
        padding_value=0.25,
    )  # fmt: skip
    clip = noise(1)
    expected = extractor(clip, sampling_rate=24_000, return_tensors="np")["input_features"]
    found = wanted(
        sampling_rate=24_000, n_fft=512, hop_length=100, n_mels=20, n_samples=24_000,
        padding_value=0.25,
    ).prepare([clip])  # fmt: skip
    assert found.shape == (1, 20, 240)
    assert np.abs(found - expected).max() < 1e-5


def test_a_window_that_is_no_multiple_of_the_hop_has_the_frames_of_transformers() -> None:
    extractor = WhisperFeatureExtractor(hop_length=130, chunk_length=1)
    expected = extractor(noise(1), sampling_rate=RATE, return_tensors="np")["input_features"]
    found = wanted(hop_length=130, n_samples=RATE).prepare([noise(1)])
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


def test_a_long_clip_comes_in_windows_of_which_the_last_is_padded() -> None:
    clip = noise(4.5)
    windows = list(WHISPER.windows(clip))
    parts = [clip[: 2 * RATE], clip[2 * RATE : 4 * RATE], clip[4 * RATE :]]
    assert np.array_equal(np.stack(windows), WHISPER.prepare(parts))


def test_an_empty_clip_is_one_silent_window() -> None:
    assert len(list(WHISPER.windows(np.zeros(0, np.float32)))) == 1


def test_a_clip_longer_than_a_window_is_not_cut_silently() -> None:
    with pytest.raises(BadInputError, match=r"clip 1: 2\.50 seconds; expected at most 2.*windows"):
        WHISPER.prepare([noise(1), noise(2.5)])


def test_no_clips_are_an_empty_batch() -> None:
    assert WHISPER.prepare([]).shape == (0, 80, 200)


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros(5), np.zeros((5, 2), np.float32), np.zeros(5, np.int16),
        np.array([0, np.nan], np.float32), np.array([np.inf], np.float32),
    ],
)  # fmt: skip
def test_samples_of_another_kind_are_refused(clip: Any) -> None:
    with pytest.raises(BadInputError):
        WHISPER.prepare([clip])


def stored(samples: NDArray[Any], bits: int, rate: int = RATE) -> bytes:
    """Samples [frames, channels] from -1 to 1 as the standard library writes a WAV file."""
    full = np.round(samples * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        full += 128
    raw = full.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(raw)
    return stream.getvalue()


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_wav_file_is_the_mean_of_its_channels(bits: int, channels: int) -> None:
    drawn = np.random.default_rng(bits).uniform(-1, 1, (500, channels))
    found = WHISPER.samples(stored(drawn, bits))
    assert np.abs(found - drawn.mean(axis=1)).max() < 2 / 2**bits + 2e-7 + 2.0 ** (1 - bits)


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    raw = stored(voice()[:, None], 16)
    (tmp_path / "x.wav").write_bytes(raw)
    found = WHISPER.prepare([tmp_path / "x.wav", str(tmp_path / "x.wav"), raw])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def chunked(
    data: bytes, form: int = 1, bits: int = 16, *, rate: int = RATE, channels: int = 1,
    more: bytes = b"",
) -> bytes:  # fmt: skip
    """A WAV file with that format; `more` follows the usual 16 bytes of its header."""
    frame = channels * bits // 8
    header = struct.pack("<HHIIHH", form, channels, rate, rate * frame % (1 << 32), frame, bits)
    header += more
    body = b"WAVEfmt " + struct.pack("<I", len(header)) + header
    body += b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd chunk, then a byte to fill up
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_an_extensible_header_is_read() -> None:
    subformat = struct.pack("<HHIH", 22, 24, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    found = read_wave(chunked(b"\0\0\x40\xff\xff\xbf", 0xFFFE, 24, more=subformat), "x")
    assert found.samples[:, 0].tolist() == [0.5, -0.5 - 2**-23]


@pytest.mark.parametrize(("bits", "kind"), [(32, "<f4"), (64, "<f8")])
def test_samples_stored_as_floats_are_read(bits: int, kind: str) -> None:
    data = np.array([0.25, -1.5], kind).tobytes()
    assert read_wave(chunked(data, 3, bits), "x").samples[:, 0].tolist() == [0.25, -1.5]


def test_a_file_written_into_a_pipe_ends_where_it_ends() -> None:
    raw = chunked(b"\0\x40\0\xc0").replace(b"data\x04\0\0\0", b"data\xff\xff\xff\xff")
    assert read_wave(raw, "x").samples[:, 0].tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "begins with b''"),
        (b"OggS" + bytes(60), "OggS"),
        (chunked(b"\0\0")[:20], "no data chunk"),
        (chunked(b"\0\0" * 9)[:-2], "16 bytes of samples where the header says 18"),
        (chunked(b"\0\0", 2), "format 2 with 16 bits"),
        (chunked(b"\0\0", 1, 12), "format 1 with 12 bits"),
        (chunked(b"\0\0", 3, 16), "format 3 with 16 bits"),
        (chunked(b"\0\0", 0xFFFE), "an extensible header"),
        (chunked(b"\0\0", rate=0), "1 channels at 0 Hz"),
        (chunked(b"\0\0", rate=(1 << 32) - 1), "at 4294967295 Hz"),
        (chunked(b"\0\0", channels=0), "0 channels"),
        (chunked(b"\0\0", channels=999), "999 channels"),
        (chunked(np.array([np.nan], "<f4").tobytes(), 3, 32), "beyond all loudness"),
        (chunked(np.array([1e300], "<f8").tobytes(), 3, 64), "beyond all loudness"),
    ],
)
def test_another_file_is_refused_with_what_was_found(raw: bytes, said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        WHISPER.prepare([raw])
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"gone\.wav"):
        WHISPER.prepare([tmp_path / "gone.wav"])


def test_a_file_of_days_is_refused_before_it_is_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "SECONDS_LIMIT", 1)
    with pytest.raises(BadInputError, match="2 seconds; expected at most 1"):
        WHISPER.prepare([stored(tone(100, 2, 1000)[:, None], 16, 1000)])


HEADER = st.tuples(
    st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 2**32 - 1),
    st.integers(0, 65535), st.integers(0, 65535),
)  # fmt: skip


@given(HEADER, st.binary(max_size=24), st.binary(max_size=60), st.integers(0, 2**32 - 1))
def test_any_wav_file_is_read_or_refused(
    header: tuple[int, ...], more: bytes, data: bytes, size: int
) -> None:
    form, channels, rate, frame, bits = header
    fields = struct.pack("<HHIIHH", form, channels, rate, 0, frame, bits) + more
    raw = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(fields)) + fields
    with contextlib.suppress(BadInputError):
        read_wave(raw + b"data" + struct.pack("<I", size) + data, "x")


@given(st.sampled_from([8, 16, 24, 32]), st.binary(max_size=60), st.integers(0, 60))
def test_a_damaged_wav_file_is_read_or_refused(bits: int, junk: bytes, place: int) -> None:
    raw = stored(np.zeros((9, 2)), bits)
    with contextlib.suppress(BadInputError):
        found = read_wave(raw[:place] + junk + raw[place + len(junk) :], "x")
        assert np.abs(found.samples).max(initial=0) <= 1e6


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_a_tone(rate: int) -> None:
    found = resample(tone(440, 1, rate), rate, RATE)
    middle = slice(1000, -1000)  # what lies before and after a clip is silence
    assert found.size == RATE
    assert np.abs(found - tone(440, 1))[middle].max() < 1e-5


@pytest.mark.parametrize("hertz", [8500, 10_000, 15_000, 20_000])
def test_resampling_leaves_nothing_of_what_the_lower_rate_cannot_hold(hertz: int) -> None:
    found = resample(tone(hertz, 1, 44_100), 44_100, RATE)
    assert np.abs(found)[1000:-1000].max() < 0.5 * 10 ** (-95 / 20)


@pytest.mark.parametrize("hertz", [100, 3000, 6500])
def test_resampling_keeps_the_loudness_of_what_it_can_hold(hertz: int) -> None:
    found = resample(tone(hertz, 1, 44_100), 44_100, RATE)
    assert np.abs(found - tone(hertz, 1))[1000:-1000].max() < 1e-3


def test_the_same_rate_changes_nothing() -> None:
    assert np.array_equal(resample(noise(1), RATE, RATE), noise(1))


@given(st.integers(1, 60), st.integers(1000, 5000), st.integers(1000, 5000))
def test_any_rates_give_the_length_in_proportion(size: int, source: int, other: int) -> None:
    found = resample(np.ones(size, np.float32), source, other)
    assert found.size == -(-size * other // source)
    assert np.isfinite(found).all()


def test_a_file_at_another_rate_sounds_the_same() -> None:
    raw = stored(tone(440, 2, 44_100)[:, None], 24, 44_100)
    difference = np.abs(WHISPER.prepare([raw]) - WHISPER.prepare([tone(440, 2)]))
    loud = WHISPER.prepare([tone(440, 2)]) > 1
    assert difference[loud].max() < 1e-3


def test_the_manifest_holds_all_of_it() -> None:
    assert AudioInput.from_manifest(WHISPER.as_manifest()) == WHISPER


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling_rate": 0}, "sampling_rate: 0"),
        ({"n_fft": 401}, "n_fft: 401"),
        ({"n_fft": True}, "n_fft: True"),
        ({"hop_length": 0}, "hop_length: 0"),
        ({"hop_length": 1, "n_samples": 1 << 24}, "more would not fit"),
        ({"n_mels": 1 << 20}, "n_mels: 1048576"),
        ({"n_samples": 300}, "n_samples: 300"),
        ({"padding_value": float("nan")}, "padding_value: nan"),
        ({"dither": 0.1}, "unknown key 'dither'"),
    ],
)
def test_a_wrong_section_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        wanted(**changes)
    assert said in str(caught.value)


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(st.dictionaries(st.sampled_from(audio.KEYS), ANY | st.lists(ANY)))
def test_any_section_is_read_or_refused(changes: dict[str, Any]) -> None:
    with contextlib.suppress(BadInputError):
        found = wanted(**changes)
        assert found.frames >= 1
