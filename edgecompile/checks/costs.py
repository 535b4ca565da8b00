"""Step 4: size, time to load, latency or speed, peak memory; and whether it gains over float16."""
from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks import Limits
from edgecompile.metrics import Measurement, cost
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row, judged
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.worker_client import Worker
from edgecompile.tasks import IMAGE_TEXT, PAIRS, PER_TOKEN, generates

STEP = "cost"
NO_GAIN = "no-gain"
TEXT_TOKENS = 64
GENERATIONS = 3


def size_rows(info: Manifest, limits: Mapping[str, float], allow: Sequence[str]) -> Iterator[Row]:
    """The bundle's bytes, and its model files against 2 bytes a parameter."""
    total = cost.size(sum(file.bytes for file in info.files))
    yield judged(STEP, total, limits.get("size"))
    model_bytes = sum(file.bytes for file in info.files if file.path.startswith("model/"))
    gain = cost.gain(model_bytes, int(info.data["model"]["parameters"]))
    if NO_GAIN in allow:
        yield judged(STEP, gain, None, f"allowed by name: {NO_GAIN}")
    else:
        yield judged(STEP, gain, float(np.nextafter(1.0, 0.0)), _way_out(gain))


def _way_out(gain: Measurement) -> str:
    return "" if gain.value < 1 else f"no smaller than float16; --allow {NO_GAIN} lets it pass"


def time_rows(
    worker: Worker, task: str, ids: Sequence[int], options: Limits, limits: Mapping[str, float]
) -> Iterator[Row]:
    """Load time, then latency of one text or speed of generation from about 64 tokens `ids`."""
    yield judged(STEP, cost.load_time(worker.hello()["load_seconds"]), limits.get("load_time"))
    if generates(task):
        runs = [worker.generate_timed(ids, options.new_tokens) for _ in range(GENERATIONS)]
        rates = [run["tokens_per_second"] or float("nan") for run in runs]
        for measured in cost.generation([run["first_token_ms"] for run in runs], rates):
            yield judged(STEP, measured, limits.get(measured.metric))
        return
    vectors = task in ("embedding", IMAGE_TEXT)
    if vectors or task in (*PER_TOKEN, *PAIRS):
        ask = worker.embed_ids if vectors else worker.rows
        times = timed(lambda: ask([ids]), options.repeats)
        yield judged(STEP, cost.latency(times), limits.get("latency"))


def sound_rows(
    worker: Worker, sound: tuple[Float32, int], start: Sequence[int], options: Limits,
    limits: Mapping[str, float],
) -> Iterator[Row]:  # fmt: skip
    """Load time, the first token of a window and those after it, and transcribing a clip.

    `sound` are samples and their rate; the first token's time is with the encoder's.
    """
    yield judged(STEP, cost.load_time(worker.hello()["load_seconds"]), limits.get("load_time"))
    samples, rate = sound
    features = worker.features(samples)
    runs = [worker.generate_timed(start, options.new_tokens, features) for _ in range(GENERATIONS)]
    rates = [run["tokens_per_second"] or float("nan") for run in runs]
    for measured in cost.generation([run["first_token_ms"] for run in runs], rates):
        yield judged(STEP, measured, limits.get(measured.metric))
    times = [worker.transcribe(samples)["seconds"] for _ in range(GENERATIONS)]
    factor = cost.real_time_factor([one * rate / len(samples) for one in times])
    yield judged(STEP, factor, limits.get(factor.metric))


def module_latency(
    worker: Worker, arrays: Mapping[str, NDArray[Any]], options: Limits, limit: float | None
) -> Row:
    """Latency of one call with the example inputs."""
    times = timed(lambda: worker.run(**arrays), options.repeats)
    return judged(STEP, cost.latency(times), limit)


def picture_latency(
    worker: Worker, picture: NDArray[np.uint8], options: Limits, limits: Mapping[str, float]
) -> Row:
    """Latency of one prepared picture."""
    pixels = worker.prepare([picture])
    times = timed(lambda: worker.look(pixels), options.repeats)
    return judged(STEP, cost.latency(times), limits.get("latency"))


def memory_row(worker: Worker, limits: Mapping[str, float]) -> Iterator[Row]:
    """Peak resident memory of the bundle's process so far; nothing where the system hides it."""
    mib = worker.peak_memory()
    if mib is not None:
        yield judged(STEP, cost.peak_memory(mib), limits.get("peak_memory"))


def timed(call: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` calls, after three that do not count."""
    found = []
    for index in range(repeats + 3):
        start = time.perf_counter()
        call()
        if index >= 3:
            found.append((time.perf_counter() - start) * 1000)
    return found
