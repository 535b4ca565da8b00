"""A trial of a device at load: one attention node, on the device and on the CPU.

Kernels that compute a prompt in one call have assumed subgroups wider than an adapter's
(docs/gpu.md); the version that will not, and the adapter that does, need no list here.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadInputError, UnsupportedError
from .manifest import Manifest
from .onnxruntime_decoder import PROMPT_CHUNK
from .providers import BY_NAME, CPU, Provider

PROBE_TOKENS = 72  # more than the keys that a kernel takes at once: 4 to 64 have been seen
PROBE_TOLERANCE = 2e-2  # of the largest value, for float16 too; a wrong kernel misses by 0.4


def prompt_step(
    library: ModuleType, bundle: Path, manifest: Manifest, provider: Provider
) -> int:
    """The most tokens a call may take: all, or one where only single tokens come out right.

    The bundle's probe, one attention node of the model's sizes, is asked on the device and on the
    CPU. Where single tokens are wrong as well, UnsupportedError.
    """
    file = str(manifest.engine.options.get("probe", ""))
    if file not in {entry.path for entry in manifest.files}:
        raise BadInputError("manifest: engine.options.probe", repr(file), "a path of `files`")
    tested, exact = (
        _Probe(library, bundle / file, engine) for engine in (provider.engine, BY_NAME[CPU].engine)
    )
    expected = exact.ask([PROBE_TOKENS])
    for step in (PROBE_TOKENS, 1):
        if _near(tested.ask([step] * (PROBE_TOKENS // step)), expected):
            return PROMPT_CHUNK if step > 1 else 1
    raise UnsupportedError(
        provider.title, "this device computes attention wrongly", "the CPU's values"
    )


class _Probe:
    """The probe on one provider: fixed inputs in calls of given lengths."""

    def __init__(self, library: ModuleType, file: Path, engine: str) -> None:
        options = library.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = library.InferenceSession(
                str(file), options, providers=[engine], enable_fallback=0
            )
        except Exception as error:  # its classes share no base but Exception
            raise UnsupportedError(engine, str(error), "a device that opens the probe") from error
        self._ports = {port.name: port for port in self._session.get_inputs()}

    def ask(self, calls: Sequence[int]) -> NDArray[np.float32]:
        """The attention's output [tokens, width] over all calls."""
        past, parts, done = self._empty(), [], 0
        for tokens in calls:
            total = done + tokens
            feed = {name: self._values(name, done, total) for name in ("query", "key", "value")}
            feed |= {
                **past,
                "seqlens_k": np.array([total - 1], np.int32),
                "total_sequence_length": np.array(total, np.int32),
            }
            try:
                found, key, value = self._session.run(None, feed)
            except Exception as error:  # its classes share no base but Exception
                raise UnsupportedError("onnxruntime", str(error)) from error
            past, done = {"past_key": key, "past_value": value}, total
            parts.append(found[0].astype(np.float32))
        return np.concatenate(parts)

    def _empty(self) -> dict[str, NDArray[Any]]:
        _, heads, _, size = self._ports["past_key"].shape
        return {
            name: np.zeros((1, heads, 0, size), self._dtype) for name in ("past_key", "past_value")
        }

    @property
    def _dtype(self) -> np.dtype[Any]:
        half = self._ports["query"].type == "tensor(float16)"
        return np.dtype(np.float16 if half else np.float32)

    def _values(self, name: str, start: int, end: int) -> NDArray[Any]:
        """Rows `start` to `end` of waves: no two rows or inputs are alike, none is large."""
        width, turn = int(self._ports[name].shape[2]), {"query": 0.7, "key": 1.1, "value": 1.7}
        rows = np.arange(start, end, dtype=np.float64)[:, None]
        waves = np.sin(turn[name] * (rows * width + np.arange(width)) + rows * rows)
        return waves[None].astype(self._dtype)


def _near(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Whether all values agree; NaN does not."""
    largest = float(np.abs(expected).max())
    return bool(np.abs(found - expected).max() <= PROBE_TOLERANCE * largest)
