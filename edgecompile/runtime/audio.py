"""Audio as Whisper's feature extractor prepares it: log-mel spectrograms with numpy alone.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), 2.2, as
transformers' WhisperFeatureExtractor computes it. It has two ways of its own, by torch in float32
and by numpy in float64; this one computes in float64. Files are WAV files; their channels are
averaged, and another sampling rate is changed by `resampling.resample`.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError, UsageError
from .sections import Section
from .wav import RATES, read_wave

FILE_LIMIT = 1 << 30  # bytes
FFT_LIMIT, MELS_LIMIT = 1 << 14, 1 << 10
SECONDS_LIMIT = 4 * 3600  # of one clip
TOP_FREQUENCY = 8000.0  # hertz, of the highest mel filter, whatever the sampling rate
FLOOR = 1e-10  # of a mel filter's power, before its logarithm
RANGE = 8.0  # decades below a window's loudest value that are told apart
KEYS = ("sampling_rate", "n_fft", "hop_length", "n_mels", "n_samples", "padding_value")

Clip: TypeAlias = "str | Path | bytes | NDArray[np.float32]"


@dataclass(frozen=True)
class AudioInput:
    """How sound becomes float32 [n_mels, frames]: `n_samples` at `sampling_rate` hertz a window.

    A frame is `n_fft` samples under Hann's window, one every `hop_length` samples; what a clip
    lacks is filled with `padding_value`.
    """

    sampling_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    n_samples: int
    padding_value: float = 0.0

    @classmethod
    def from_manifest(cls, data: object, where: str = "manifest.json: audio") -> AudioInput:
        """Check an untrusted section; BadInputError (exit 5) says what is wrong where."""
        section = Section(data, KEYS, where)
        found = cls(
            section.integer("sampling_rate", 1000, 768_000),
            section.integer("n_fft", 2, FFT_LIMIT),
            section.integer("hop_length", 1, 1 << 14),
            section.integer("n_mels", 1, MELS_LIMIT),
            section.integer("n_samples", 1, 1 << 24),
            section.number("padding_value", -1.0, 1.0),
        )
        if found.n_fft % 2:
            section.bad("n_fft", "an even number")
        if found.n_samples < max(found.n_fft, found.hop_length):
            section.bad("n_samples", "at least n_fft and hop_length")
        if found.frames * found.n_fft > 1 << 28:
            section.bad("hop_length", "fewer frames a window: more would not fit into memory")
        return found

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.n_samples // self.hop_length

    def as_manifest(self) -> dict[str, Any]:
        """The section that `from_manifest` reads."""
        return {key: getattr(self, key) for key in KEYS}

    def prepare(self, clips: Iterable[Clip]) -> NDArray[np.float32]:
        """Clips of at most one window each to float32 [n, n_mels, frames]."""
        prepared = []
        for place, clip in enumerate(clips):
            samples = self.samples(clip, f"clip {place}")
            if samples.size > self.n_samples:
                raise BadInputError(
                    f"clip {place}", f"{samples.size / self.sampling_rate:.2f} seconds",
                    f"at most {self.n_samples / self.sampling_rate:g}", "take its `windows`",
                )  # fmt: skip
            prepared.append(self.spectrogram(samples))
        if not prepared:
            return np.zeros((0, self.n_mels, self.frames), np.float32)
        return np.stack(prepared)

    def windows(self, clip: Clip) -> Iterator[NDArray[np.float32]]:
        """The log-mel float32 [n_mels, frames] of each window of a clip, one after the other.

        They do not overlap, and the last is padded; an empty clip is one window of padding.
        """
        samples = self.samples(clip, "clip")
        for start in range(0, max(samples.size, 1), self.n_samples):
            yield self.spectrogram(samples[start : start + self.n_samples])

    def samples(
        self, clip: Clip, where: str = "clip", rate: int | None = None
    ) -> NDArray[np.float32]:
        """A clip as float32 [n] at `sampling_rate`: a WAV file, its bytes, or samples as such.

        `rate` is that of samples in hertz; None: the model's. A file says its own.
        """
        if isinstance(clip, np.ndarray):
            return self._resampled(clip, where, rate or self.sampling_rate)
        if rate is not None:
            raise UsageError("sampling_rate", f"{rate} for a file", "none: the file says its own")
        if not isinstance(clip, bytes | str | Path):
            raise UsageError(where, f"a {type(clip).__name__}", "a WAV file, its bytes, or samples")
        if not isinstance(clip, bytes):
            where = str(clip)
        wave = read_wave(clip if isinstance(clip, bytes) else _read(Path(clip)), where)
        seconds = len(wave.samples) / wave.rate
        if seconds > SECONDS_LIMIT:
            _refuse_length(seconds, where)
        if wave.samples.shape[1] == 1:  # the usual case, without a copy in float64
            return self._resampled(wave.samples[:, 0], where, wave.rate)
        mono = wave.samples.mean(axis=1, dtype=np.float64).astype(np.float32)
        return self._resampled(mono, where, wave.rate)

    def _resampled(self, samples: NDArray[Any], where: str, rate: int) -> NDArray[np.float32]:
        if not RATES[0] <= rate <= RATES[1]:
            raise UsageError("sampling_rate", repr(rate), f"{RATES[0]} to {RATES[1]} hertz")
        samples = self._checked(samples, where, rate)
        from .resampling import resample

        return self._checked(resample(samples, rate, self.sampling_rate), where)

    def spectrogram(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [at most n_samples] to log-mel float32 [n_mels, frames], from -1 decade up."""
        window = np.full(self.n_samples, self.padding_value, np.float32)
        window[: samples.size] = samples
        padded = np.pad(window.astype(np.float64), self.n_fft // 2, mode="reflect")
        pieces = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        spectrum = np.fft.rfft(pieces[: self.frames] * _hann(self.n_fft))
        power = np.square(spectrum.real) + np.square(spectrum.imag)  # [frames, n_fft / 2 + 1]
        mel = power @ _mel_filters(self.n_fft, self.n_mels, self.sampling_rate)
        decades = np.log10(np.maximum(mel, FLOOR)).T
        decades = np.maximum(decades, decades.max() - RANGE)
        return np.ascontiguousarray((decades + 4.0) / 4.0, np.float32)

    def _checked(
        self, samples: NDArray[Any], where: str, rate: int | None = None
    ) -> NDArray[np.float32]:
        rate = rate or self.sampling_rate
        if samples.dtype != np.float32 or samples.ndim != 1:
            found = f"an array of {samples.dtype} {list(samples.shape)}"
            way_out = "average its channels, and scale whole numbers to floats from -1 to 1"
            raise BadInputError(where, found, f"float32 [n] at {rate} Hz", way_out)
        if samples.size > SECONDS_LIMIT * rate:
            _refuse_length(samples.size / rate, where)
        if not np.isfinite(samples).all():
            raise BadInputError(where, "samples that are no finite numbers", "sound")
        return samples


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > FILE_LIMIT:
            raise BadInputError(str(path), f"{size} bytes", f"at most {FILE_LIMIT}", "cut it up")
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(str(path), str(error), "a WAV file") from error


def _refuse_length(seconds: float, where: str) -> None:
    raise BadInputError(where, f"{seconds:.0f} seconds", f"at most {SECONDS_LIMIT}", "cut it up")


@lru_cache(maxsize=4)
def _hann(length: int) -> NDArray[np.float64]:
    """Hann's periodic window: float64 [length]."""
    return np.asarray(np.hanning(length + 1)[:-1])


@lru_cache(maxsize=4)
def _mel_filters(n_fft: int, n_mels: int, sampling_rate: int) -> NDArray[np.float64]:
    """Triangles of equal area, even on Slaney's mel scale: float64 [n_fft / 2 + 1, n_mels].

    As librosa's `mel(htk=False, norm="slaney")`, from M. Slaney's Auditory Toolbox (1998).
    """
    bins = np.linspace(0, sampling_rate // 2, 1 + n_fft // 2)
    corners = _hertz(np.linspace(0.0, _mels(TOP_FREQUENCY), n_mels + 2))
    widths = np.diff(corners)
    rising = (bins[:, None] - corners[None, :-2]) / widths[:-1]
    falling = (corners[None, 2:] - bins[:, None]) / widths[1:]
    area = 2.0 / (corners[2:] - corners[:-2])
    return np.maximum(0.0, np.minimum(rising, falling)) * area


def _mels(hertz: float) -> float:
    """Slaney's scale: 3 mels every 200 Hz up to 1000 Hz, then 27 mels for each factor of 6.4."""
    return float(15.0 + 27.0 * np.log(hertz / 1000.0) / np.log(6.4))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    above = 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0))
    return np.asarray(np.where(mels < 15.0, mels * (200.0 / 3.0), above))
