"""WAV files, read as untrusted input: PCM of 8 to 32 bits and IEEE floats.

Not the standard library's `wave`: before Python 3.12 it refuses WAVE_FORMAT_EXTENSIBLE, which is
how 24 bits and more than two channels are usually stored. Source: Microsoft's "Multiple channel
audio data and WAVE files", and RFC 2361 for the format numbers.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
UNKNOWN_SIZE = 0xFFFFFFFF  # of a file that was written into a pipe: its data go to the end
RATES = (1000, 768_000)  # hertz
CHANNELS = 64
LOUDEST = 1e6  # of a sample stored as a float, where 1 is full scale
# What stands before the first two bytes of an extensible header's subformat is always this.
SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")


@dataclass(frozen=True)
class Wave:
    """Samples as float32 [frames, channels] from -1 to 1, and their rate in hertz."""

    samples: NDArray[np.float32]
    rate: int


def read_wave(raw: bytes, where: str) -> Wave:
    """Decode the bytes of a WAV file, or say in a BadInputError what is wrong with it."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        _refuse(where, f"a file that begins with {raw[:12]!r}")
    header, data = _chunks(raw, where)
    if len(header) < 16:
        _refuse(where, f"a header of {len(header)} bytes")
    form, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", header)
    if form == EXTENSIBLE:
        form = _subformat(header, where)
    if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= CHANNELS:
        _refuse(where, f"{channels} channels at {rate} Hz")
    if (form, bits) not in _DECODERS or frame != channels * bits // 8:
        _refuse(where, f"format {form} with {bits} bits, {frame} bytes a frame")
    whole = data[: len(data) // frame * frame]
    samples = _DECODERS[form, bits](whole).reshape(-1, channels)
    if not np.isfinite(samples).all():
        _refuse(where, "samples that are no numbers or beyond all loudness")
    return Wave(samples, rate)


def _chunks(raw: bytes, where: str) -> tuple[bytes, memoryview]:
    """The `fmt ` chunk and what follows in the `data` chunk; other chunks are passed over."""
    header, at = b"", 12
    while at + 8 <= len(raw):
        name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        at += 8
        rest = len(raw) - at
        if name == b"data":
            size = rest if size == UNKNOWN_SIZE else size
            if size > rest:
                _refuse(where, f"{rest} bytes of samples where the header says {size}")
            return header, memoryview(raw)[at : at + size]
        if name == b"fmt ":
            header = raw[at : at + size]
        at += size + size % 2  # chunks begin at even places
    _refuse(where, "no samples (no data chunk)")


def _subformat(header: bytes, where: str) -> int:
    if len(header) < 40 or header[26:40] != SUBFORMAT_TAIL:
        _refuse(where, f"an extensible header {header[24:40].hex()}")
    return int.from_bytes(header[24:26], "little")


def _whole(data: memoryview, kind: str, full: float) -> NDArray[np.float32]:
    return np.frombuffer(data, kind).astype(np.float32) / np.float32(full)


def _bits8(data: memoryview) -> NDArray[np.float32]:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)


def _bits24(data: memoryview) -> NDArray[np.float32]:
    """Three bytes a sample: put below the sign of 32 bits."""
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _whole(memoryview(wide.tobytes()), "<i4", 1 << 31)


def _floats(data: memoryview, kind: str) -> NDArray[np.float32]:
    samples = np.frombuffer(data, kind)
    # Beyond any loudness that was meant; such values would overflow later.
    return np.where(np.abs(samples) <= LOUDEST, samples, np.nan).astype(np.float32)


_DECODERS: dict[tuple[int, int], Callable[[memoryview], NDArray[np.float32]]] = {
    (PCM, 8): _bits8,
    (PCM, 16): lambda data: _whole(data, "<i2", 1 << 15),
    (PCM, 24): _bits24,
    (PCM, 32): lambda data: _whole(data, "<i4", 1 << 31),
    (FLOAT, 32): lambda data: _floats(data, "<f4"),
    (FLOAT, 64): lambda data: _floats(data, "<f8"),
}


def _refuse(where: str, found: str) -> NoReturn:
    raise BadInputError(
        where, found, "a WAV file of 8, 16, 24 or 32-bit PCM or 32 or 64-bit floats",
        "convert it, for example with `ffmpeg -i IN -c:a pcm_s16le OUT.wav`",
    )  # fmt: skip
