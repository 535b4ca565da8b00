"""Step 4: size, time to load, latency or speed, peak memory; and whether it gains over float16."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
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
WARM_UP = 3  # calls that do not count
# Calls are timed on beyond what is asked for, for their distribution, as long as that is short.
MOST_CALLS, ENOUGH_MS, FIRSTS_MS = 200, 1000.0, 4000.0
MOST_TIMES = 300  # that a report keeps of one kind


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
        yield from _generation(lambda new: worker.generate_timed(ids, new), options, limits)
        return
    vectors = task in ("embedding", IMAGE_TEXT)
    if vectors or task in ("classification", *PER_TOKEN, *PAIRS):
        ask = worker.embed_ids if vectors else worker.rows
        yield _latency(lambda: ask([ids]), options, limits.get("latency"))


def _latency(call: Callable[[], object], options: Limits, limit: float | None) -> Row:
    times = timed(call, options.repeats, MOST_CALLS)
    row = judged(STEP, cost.latency(times), limit, cost.spread(times))
    return replace(row, times_ms=tuple(times))


def _generation(
    ask: Callable[[int], Mapping[str, Any]], options: Limits, limits: Mapping[str, float]
) -> Iterator[Row]:
    """Until the first token, and tokens a second after it; `ask` generates so many."""
    runs = [ask(options.new_tokens) for _ in range(GENERATIONS)]
    firsts = [run["first_token_ms"] for run in runs]
    while len(firsts) < options.repeats and sum(firsts) < FIRSTS_MS:
        firsts.append(ask(1)["first_token_ms"])
    tokens = [one for run in runs for one in run.get("token_ms", ())]
    each = f"a token: median {median(tokens):.3g} ms, {cost.spread(tokens)}" if tokens else ""
    first, speed = cost.generation(
        firsts, [run["tokens_per_second"] or float("nan") for run in runs]
    )
    for measured, times, told in ((first, firsts, cost.spread(firsts)), (speed, tokens, each)):
        row = judged(STEP, measured, limits.get(measured.metric), told)
        yield replace(row, times_ms=tuple(times))


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
    yield from _generation(
        lambda new: worker.generate_timed(start, new, features), options, limits
    )
    times = [worker.transcribe(samples)["seconds"] for _ in range(GENERATIONS)]
    factor = cost.real_time_factor([one * rate / len(samples) for one in times])
    yield judged(STEP, factor, limits.get(factor.metric))


def module_latency(
    worker: Worker, arrays: Mapping[str, NDArray[Any]], options: Limits, limit: float | None
) -> Row:
    """Latency of one call with the example inputs."""
    return _latency(lambda: worker.run(**arrays), options, limit)


def picture_latency(
    worker: Worker, picture: NDArray[np.uint8], options: Limits, limits: Mapping[str, float]
) -> Row:
    """Latency of one prepared picture."""
    pixels = worker.prepare([picture])
    return _latency(lambda: worker.look(pixels), options, limits.get("latency"))


def memory_row(worker: Worker, limits: Mapping[str, float]) -> Iterator[Row]:
    """Peak resident memory of the bundle's process so far; nothing where the system hides it."""
    mib = worker.peak_memory()
    if mib is not None:
        yield judged(STEP, cost.peak_memory(mib), limits.get("peak_memory"))


def times_of(rows: Sequence[Row]) -> dict[str, tuple[float, ...]]:
    """The report's lists of times in ms, to four digits, by their names there."""
    found: dict[str, tuple[float, ...]] = {}
    names = {"first_token": "first_tokens_ms", "decode_speed": "tokens_ms"}
    for row in (row for row in rows if row.step == STEP and row.times_ms):
        name = names.get(row.metric, "latencies_ms")
        if name in found:  # a model of texts and pictures
            name = f"picture_{name}"
        found[name] = tuple(float(f"{one:.4g}") for one in row.times_ms[:MOST_TIMES])
    return found


def timed(call: Callable[[], object], repeats: int, most: int = 0) -> list[float]:
    """Milliseconds of each of `repeats` calls, after WARM_UP; of up to `most` while it is soon."""
    for _ in range(WARM_UP):
        call()
    found: list[float] = []
    while len(found) < repeats or (len(found) < most and sum(found) < ENOUGH_MS):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1000)
    return found
