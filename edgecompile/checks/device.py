"""Bundles for GPUs: which device is here, and what a software one proves in a few steps.

A real device is asked everything, as a CPU is. On software that stands for one (SwiftShader) a
token takes seconds: there the bundle's answers come from ONNX Runtime's CPU provider, asked for by
name, and the device gives a few of them again. Without any device the CPU's answers are all.
"""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.comparison import Comparison, need
from edgecompile.errors import (
    BadInputError,
    EdgecompileError,
    MissingLibraryError,
    UnsupportedError,
)
from edgecompile.metrics import Measurement, cosine, error, logits
from edgecompile.report import Row, judged, unproven
from edgecompile.runtime.batching import activate
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.providers import CPU
from edgecompile.runtime.worker_client import Worker
from edgecompile.text.source_tokens import pieces

VARIABLE = "EDGECOMPILE_GPU_PYTHON"  # the interpreter whose onnxruntime has a GPU's provider
STEP = "device"
TOKENS = 8  # fed to a decoder on software: a token of SmolLM2-135M takes SwiftShader about 10 s
TEXTS, WORDS = 2, 8  # given to an encoder there


@dataclass(frozen=True)
class Place:
    """Where a bundle's answers come from: an interpreter, and a provider by name (empty: chosen).

    `kind` is real, software or not-run; `name` is the device's, `why` the reason for not-run.
    """

    kind: Literal["real", "software", "not-run"] = "real"
    name: str = ""
    python: str = sys.executable
    provider: str = ""
    why: str = ""

    @property
    def whole(self) -> bool:
        """Whether everything is asked there."""
        return self.kind == "real"

    @property
    def proven_on(self) -> dict[str, str]:
        """What the report's `proven_on` says beside the processor; nothing for a CPU's bundle."""
        if not self.name and not self.why:
            return {}
        return {"gpu": self.name or f"none: {self.why}"}


def is_for_gpu(manifest: Mapping[str, Any]) -> bool:
    """Whether the bundle is for a GPU."""
    return bool(manifest["engine"].get("options", {}).get("device") == "gpu")


def python_for(manifest: Mapping[str, Any]) -> str:
    """The interpreter that opens the bundle: wheels with GPU providers replace each other."""
    return os.environ.get(VARIABLE, sys.executable) if is_for_gpu(manifest) else sys.executable


def find(bundle: Path, info: Manifest) -> Place:
    """Open a GPU's bundle once to see what takes it."""
    if not is_for_gpu(info.data):
        return Place()
    python = python_for(info.data)
    try:
        with Worker(bundle, python, verify="never") as worker:
            device = worker.hello()["device"]
    except (MissingLibraryError, UnsupportedError) as found:
        return Place("not-run", why=found.found)
    except OSError as found:
        return Place("not-run", why=f"{VARIABLE}: {found}")
    except BadInputError:
        raise
    except EdgecompileError:  # the process died: it will again, and each step is a row that fails
        return Place("real", "a device that ended the process", python)
    name = str(device["name"])
    if device.get("prompt_step") == 1:
        name += ", a token a call"
    kind: Literal["real", "software"] = "software" if device["software"] else "real"
    asked = CPU if device["provider"] == CPU else ""
    return Place(kind, name, python, asked)


def on_cpu(place: Place) -> Place:
    """The same bundle on the CPU provider of this interpreter, by name."""
    return replace(place, python=sys.executable, provider=CPU)


def rows(place: Place, comparison: Comparison, texts: Sequence[str], context: int) -> Iterator[Row]:
    """What the device itself computes, against the same codes in torch; `comparison` asks it."""
    model = comparison.model
    if 4 * model.parameters > comparison.options.stream_above:
        yield unproven(STEP, "device_run", "too large for software that stands for a GPU")
        return
    ask = {
        "text-generation": _decoder_rows, "embedding": _embedding_rows,
        "classification": _classifier_rows, "module": _module_rows,
    }[model.task]  # fmt: skip
    detail = f"on {place.name}"
    for row in ask(comparison, texts, context):
        yield replace(row, detail=detail)


def _decoder_rows(
    comparison: Comparison, texts: Sequence[str], context: int
) -> Iterator[Row]:
    size = min(TOKENS, context - 1)
    piece = pieces(need(comparison.source_tokens), texts, size, TOKENS)[0]
    ids = piece.ids
    start, parts = time.perf_counter(), []
    for done, chunk in enumerate(comparison.worker.logits(ids.tolist())):
        comparison.progress("run on the device", done, len(ids))
        parts.append(chunk.copy())
    took = (time.perf_counter() - start) * 1000 / len(ids)
    comparison.progress("run on the device", len(ids), len(ids))
    with comparison.same_codes():
        exact = comparison.reference.logit_chunks(ids.tolist(), TOKENS)
        rows_ = logits.compared_window(ids, exact, iter(parts))
    found = {one.metric: one for one in logits.measure([(rows_, piece.documents)])}
    yield _judged(comparison, found["kl_mean"], "device_kl_mean", "export_kl_mean")
    yield judged(STEP, Measurement("device_step", took, "ms", "lower", len(ids)))


def _embedding_rows(comparison: Comparison, texts: Sequence[str], _: int) -> Iterator[Row]:
    few = _few(texts)
    start = time.perf_counter()
    found = comparison.worker.embed(few)
    took = (time.perf_counter() - start) * 1000 / len(few)
    with comparison.same_codes():
        exact = comparison.reference.embed(_tokens(comparison, few))
    lowest = cosine.measure(cosine.cosines(exact, found))[2]
    yield _judged(comparison, lowest, "device_cosine_min", "export_cosine_min")
    yield judged(STEP, Measurement("device_text", took, "ms", "lower", len(few)))


def _classifier_rows(comparison: Comparison, texts: Sequence[str], _: int) -> Iterator[Row]:
    few = _few(texts)
    found = comparison.worker.classify(few)
    multi = comparison.model.config.get("problem_type") == "multi_label_classification"
    with comparison.same_codes():
        scores = comparison.reference.embed(_tokens(comparison, few))
    exact = activate(scores, "sigmoid" if multi else "softmax")
    values = np.array([list(answer.values()) for answer in found])
    yield _relative(comparison, [exact], [values])


def _module_rows(comparison: Comparison, _: Sequence[str], __: int) -> Iterator[Row]:
    given = comparison.reference.example_inputs
    with comparison.same_codes():
        exact = list(comparison.reference.run(**given).values())
    yield _relative(comparison, exact, list(comparison.worker.run(**given).values()))


def _relative(
    comparison: Comparison, exact: list[NDArray[Any]], found: list[NDArray[Any]]
) -> Row:
    worst = max(error.relative_error(a, b) for a, b in zip(exact, found, strict=True))
    measured = Measurement("relative_error", worst, "", "lower", len(exact))
    return _judged(comparison, measured, "device_relative_error", "export_relative_error")


def _judged(comparison: Comparison, measured: Measurement, name: str, limit: str) -> Row:
    return judged(STEP, replace(measured, metric=name), comparison.limits[limit])


def _few(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()[:WORDS]) for text in texts[:TEXTS]]


def _tokens(comparison: Comparison, texts: Sequence[str]) -> list[list[int]]:
    return [list(map(int, row)) for row in need(comparison.source_tokens).encode(texts)]
