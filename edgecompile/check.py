"""Check a sealed bundle: its bytes, its tokenizer, its answers in its engine, its costs."""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecompile import host
from edgecompile.backends import Decoded
from edgecompile.checks import (
    Limits,
    alone,
    costs,
    described,
    device,
    earlier,
    kept,
    kept_vocab,
    own,
    quality,
    sealed,
    stages,
    stored_once,
    tokens,
)
from edgecompile.checks.comparison import Comparison
from edgecompile.checks.limits import REQUIRED, activation_column, limits_for, types_of, width_of
from edgecompile.errors import (
    BadInputError,
    EdgecompileError,
    MissingLibraryError,
    UnsupportedError,
)
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.pruning import vocab
from edgecompile.report import NOT_RUN, CheckReport, Row, exact, unproven
from edgecompile.report.files import write_reports
from edgecompile.runtime.golden import sound
from edgecompile.runtime.manifest import Manifest, read_manifest
from edgecompile.runtime.providers import CPU
from edgecompile.runtime.verify import verify
from edgecompile.runtime.worker_client import Worker
from edgecompile.tasks import SPEECH, generates, has_tokenizer, takes_text
from edgecompile.text.captions import pictures_of, texts_of
from edgecompile.text.corpus import default_corpus
from edgecompile.text.parts import Corpus
from edgecompile.text.pictures import open_picture
from edgecompile.text.sounds import open_sound
from edgecompile.text.source_tokens import FolderTokens

__all__ = ["CheckReport", "Limits", "check_bundle", "write_reports"]

THREADS_TO_HASH = 4


@dataclass
class _Found:
    """Rows as the steps give them, and the seconds of each step."""

    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self, name: str, rows: Iterable[Row]) -> None:
        """Run one step; what an engine cannot do, or dies of, is a row and not an exception."""
        start = time.perf_counter()
        try:
            self.rows.extend(rows)
        except (BadInputError, MissingLibraryError, own.OwnMetricError):
            raise
        except UnsupportedError as error:
            self.rows.append(unproven(name, f"{name}_step", str(error)))
        except EdgecompileError as error:
            self.rows.append(exact(name, f"{name}_step", [str(error)], 1))
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class _Subject:
    """The bundle under check and what it is compared with."""

    bundle: Path
    info: Manifest
    model: Model | None
    corpus: Corpus
    options: Limits
    limits: Mapping[str, float]
    progress: Progress
    place: device.Place


def check_bundle(
    bundle: Path, model: Model | None, corpus: Corpus, options: Limits, progress: Progress
) -> CheckReport:
    """Compare a sealed bundle with its source; without one (None) it stays unproven.

    `model.quantized`, where there is any, are the quantize stage's codes. Raises BadInputError for
    a damaged bundle or another model than it was built from; a failing check raises nothing.
    """
    info = read_manifest(bundle)
    progress("check files", 0, 1)
    verify(bundle, info, "always", THREADS_TO_HASH)
    progress("check files", 1, 1)
    width = width_of(types_of(info.data))
    column = activation_column(info.data)
    limits = limits_for(width, column, options.stricter, options.metrics)
    place = device.find(bundle, info)
    subject = _Subject(bundle, info, model, corpus, options, limits, progress, place)
    if model is not None:
        sealed.refuse_another_source(info.data["source"]["digest"], model)
        model.weights.release()  # each step maps what it reads
    found = _Found()
    _run(subject, found)
    found.rows.extend(_never_measured(subject, found.rows))
    return _report(subject, found, width)


def _run(subject: _Subject, found: _Found) -> None:
    data = subject.info.data
    subject.progress("check codes", 0, 1)
    decoded = sealed.decode(subject.bundle, data)
    expected = subject.model.quantized if subject.model else {}
    found.step("sealed", sealed.rows(decoded, data, subject.model, expected))
    if subject.model is not None:
        changed = sealed.changed_floats(data)
        found.step("sealed", described.rows(data, subject.model, changed))
    found.step("sealed", stored_once.rows(subject.bundle, data, subject.options.allow))
    subject.progress("check codes", 1, 1)
    found.step("cost", costs.size_rows(subject.info, subject.limits, subject.options.allow))
    place, asked = subject.place, subject
    if not place.whole:
        asked = dataclasses.replace(subject, place=device.on_cpu(place))
    found.step("cost", _cost_rows(asked))
    found.step("engine", _golden_rows(asked))
    if subject.model is not None:
        found.step("engine", _engine_rows(asked, subject.model, decoded))
        if subject.model.origin is not None:
            found.step(kept.STEP, _kept_rows(asked, subject.model, subject.model.origin, decoded))
    if place.kind == NOT_RUN:
        found.rows.append(unproven(device.STEP, "device_run", place.why))
    elif not place.whole and subject.model is not None and place.provider != CPU:
        found.step(device.STEP, _device_rows(subject, subject.model, decoded))


def _device_rows(subject: _Subject, model: Model, decoded: Decoded) -> Iterator[Row]:
    """What software that stands for a GPU answers itself."""
    info, texts = subject.info, [document.text for document in subject.corpus.held_out]
    context = info.generation.context_length if info.generation else 0
    source = None
    if info.tokenizer is not None:
        source = FolderTokens(model, 0 if context else info.tokenizer.max_length)
    with (
        _worker(subject) as worker,
        closing(_comparison(subject, worker, model, decoded, source)) as comparison,
    ):
        yield from device.rows(subject.place, comparison, texts, context)


def _comparison(
    subject: _Subject, worker: Worker, model: Model, decoded: Decoded, source: FolderTokens | None
) -> Comparison:
    asked = len(REQUIRED[subject.info.task]) + len(subject.options.metrics)
    metrics = asked * (1 if model.origin is None else 2)
    return Comparison(
        worker, model, decoded, source, subject.options, subject.limits, subject.progress,
        sealed.changed_floats(subject.info.data), sharing=metrics,
    )  # fmt: skip


def _engine_rows(subject: _Subject, model: Model, decoded: Decoded) -> Iterator[Row]:
    """Token ids and answers of the bundle in its engine, in one process without torch."""
    info, held_out = subject.info, subject.corpus.held_out
    with _worker(subject) as worker:
        source = None
        if info.tokenizer is not None:
            longest = 0 if generates(info.task) else info.tokenizer.max_length
            source = FolderTokens(model, longest)  # as the runtime: a decoder's text is not cut
            texts = texts_of(held_out)
            if info.task == SPEECH:  # what is said, else prose: sounds have no text of their own
                said = [document.label for document in held_out if document.label]
                texts = said or [document.text for document in default_corpus().held_out]
            yield from tokens.rows(worker, source, texts)
            if info.engine.name == "llama_cpp":
                yield tokens.engine_row(info, subject.bundle, model.folder, texts)
                yield tokens.special_row(info, subject.bundle, model)
        if info.task == "text-generation" and source is not None:
            yield from tokens.template_rows(worker, source, info, subject.bundle)
        context = info.generation.context_length if info.generation else 0
        chain = earlier.chain_of(model, source.max_length if source else 0)
        with closing(_comparison(subject, worker, model, decoded, source)) as comparison:
            comparison = dataclasses.replace(comparison, chain=chain)
            yield from quality.rows(comparison, held_out, context)


def _golden_rows(subject: _Subject) -> Iterator[Row]:
    place, threads = subject.place, subject.options.threads

    def opened(count: int | None) -> Worker:
        return Worker(
            subject.bundle, place.python, verify="never", threads=count, provider=place.provider
        )

    yield from alone.golden_rows(opened, subject.info, threads)


def _kept_rows(
    subject: _Subject, model: Model, origin: Model, decoded: Decoded
) -> Iterator[Row]:
    """What the bundle kept of the model that its passes made a smaller one of."""
    info, source = subject.info, None
    context = info.generation.context_length if info.generation else 0
    old_ids = None
    if info.tokenizer is not None:
        by_token = info.task in kept_vocab.BY_TOKEN
        old_ids = vocab.old_ids(model, origin) if by_token else None
        asked = origin if old_ids is None else model  # in whose tokens
        source = FolderTokens(asked, 0 if generates(info.task) else info.tokenizer.max_length)
    with _worker(subject) as worker:
        comparison = _comparison(subject, worker, model, decoded, source)
        comparison = dataclasses.replace(comparison, old_ids=old_ids)
        yield from kept.rows(comparison, origin, subject.corpus.held_out, context)


def _cost_rows(subject: _Subject) -> Iterator[Row]:
    """A process of its own, so that peak memory is that of a load and a short text."""
    task = subject.info.task
    subject.progress("measure", 0, 1)
    with _worker(subject, "always") as worker:
        held_out = subject.corpus.held_out
        text = next(iter(texts_of(held_out)), "text")
        ids = worker.tokenize([f"{text} {text}"])[0] if takes_text(task) else []
        short = ids[: costs.TEXT_TOKENS]
        if subject.place.provider != CPU:  # a CPU's speed says nothing of a GPU
            if task == SPEECH:
                yield from _speech_costs(subject, worker)
            else:
                yield from costs.time_rows(worker, task, short, subject.options, subject.limits)
            if subject.info.pictures is not None and (seen := pictures_of(held_out)):
                picture = np.asarray(open_picture(seen[0]))
                yield costs.picture_latency(worker, picture, subject.options, subject.limits)
        yield from costs.memory_row(worker, subject.limits)
    subject.progress("measure", 1, 1)


def _speech_costs(subject: _Subject, worker: Worker) -> Iterator[Row]:
    """Of the first held-out sound that fits a window, else of one of our own."""
    info, held_out = subject.info, subject.corpus.held_out
    if info.audio is None or info.generation is None or info.generation.start_token_id is None:
        raise BadInputError("manifest", "no audio or generation section", "both for speech")
    window = info.audio.n_samples
    samples = open_sound(held_out[0], info.audio)[:window] if held_out else None
    if samples is None or not samples.size:
        samples = sound(0, window / info.audio.sampling_rate, info.audio.sampling_rate)
    start, rate = [info.generation.start_token_id], info.audio.sampling_rate
    yield from costs.sound_rows(worker, (samples, rate), start, subject.options, subject.limits)


def _worker(subject: _Subject, verified: str = "never") -> Worker:
    """A fresh process without torch; check_bundle has verified every file already."""
    return Worker(
        subject.bundle, subject.place.python, verify=verified, threads=subject.options.threads,
        provider=subject.place.provider,
    )  # fmt: skip


def _never_measured(subject: _Subject, rows: Iterable[Row]) -> Iterator[Row]:
    """An unproven row for each metric that the task needs and no step gave."""
    there = {row.metric for row in rows}
    why = "no source model was given" if subject.model is None else "it was not measured"
    needed = ["codes_differing", *REQUIRED[subject.info.task]]
    if "origin" in subject.info.data["source"]:
        needed += kept.required(REQUIRED[subject.info.task])
    if has_tokenizer(subject.info.task):
        needed.append("tokenizer_differences")
    for metric in needed:
        if metric not in there:
            yield unproven("quality", metric, why)
    yield from own.never_measured(subject.info.data, subject.options, there)


def _report(subject: _Subject, found: _Found, width: str) -> CheckReport:
    data, here = subject.info.data, host.host()
    variant = f"-{data['variant']}" if data.get("variant") else ""
    corpus, values = subject.corpus, stages.values(found.rows)
    return CheckReport(
        bundle=f"{subject.info.name}-{data['target']}{variant}",
        manifest_sha256=subject.info.digest,
        model=subject.info.name,
        task=subject.info.task,
        target=data["target"],
        width=width,
        engine=subject.info.engine.name,
        engine_version=_engine_version(subject),
        rows=tuple(row for row in found.rows if row.step != stages.STEP),
        proven_on={
            "cpu": here.cpu, "level": here.level, "device": _proof(subject, found.rows),
            **subject.place.proven_on,
        },
        data={"name": corpus.name, **corpus.digests},
        samples={
            "held_out_texts": len(corpus.held_out), "texts": subject.options.texts,
            "tokens": subject.options.tokens, "seed": subject.options.seed,
        },
        allowed=subject.options.allow,
        notes=(*data["source"].get("notes", ()), *_elsewhere(data),
               *earlier.left_out(subject.model, values)),
        seconds={name: round(value, 3) for name, value in found.seconds.items()},
        stages=values,
        **costs.times_of(found.rows),  # type: ignore[arg-type]
    )  # fmt: skip


def _proof(subject: _Subject, rows: Iterable[Row]) -> str:
    """`software` and `not-run` for a GPU's bundle without one; else as `_device` says."""
    return _device(subject.info.data, rows) if subject.place.whole else subject.place.kind


def _device(manifest: Mapping[str, Any], rows: Iterable[Row] = ()) -> str:
    """`real`, `not-run`, or which platform the bundle is for that this machine is not."""
    if any(row.metric == "cost_step" and row.verdict == "unproven" for row in rows):
        return NOT_RUN
    built_for, here = manifest.get("platform"), host.platform_name()
    return "real" if built_for in (None, here) else f"{here}, not {built_for}"


def _elsewhere(manifest: Mapping[str, Any]) -> Iterator[str]:
    """How a bundle for another platform can be run on what stands for it."""
    levels = manifest["target_options"].get("device", {}).get("proven_by", ())
    if _device(manifest) != "real" and levels:
        on = " ".join(f"--on {level}" for level in levels)
        yield f"run on {host.platform_name()}; on emulated processors: edgecompile check {on}"


def _engine_version(subject: _Subject) -> str:
    """The version in this environment; the manifest's where it cannot be opened."""
    from importlib import metadata

    names = {"llama_cpp": "llama-cpp-python"}
    name = subject.info.engine.name
    try:
        return metadata.version(names.get(name, name))
    except metadata.PackageNotFoundError:
        return subject.info.engine.tested
