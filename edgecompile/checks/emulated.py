"""A bundle on emulated arm64 processors against the same bundle here; the rule: docs/arm64.md."""
from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecompile.checks.device import is_for_gpu
from edgecompile.checks.limits import EXPORT, activation_column
from edgecompile.checks.modules import perturbed
from edgecompile.emulate.levels import LEVELS, Level
from edgecompile.emulate.runner import EmulatedWorker, Emulator
from edgecompile.errors import EdgecompileError, MissingLibraryError, UnsupportedError
from edgecompile.metrics import Measurement, cosine, error, mean
from edgecompile.metrics.kl import divergences
from edgecompile.metrics.logits import log_softmax
from edgecompile.model import Model
from edgecompile.passes import Progress
from edgecompile.report import Row, exact, judged
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.worker_client import Worker
from edgecompile.tasks import PAIRS, PER_TOKEN, has_several_graphs

# Emulation takes 10 to 100 times as long: few inputs, and they are short.
TEXTS = 8
TEXT_TOKENS = 64
PROMPTS = 2
PROMPT_TOKENS = 24
NEW_TOKENS = 16
MODULE_INPUTS = 2
THREADS = 1  # as golden inputs are asked: no answer depends on how work is shared

Array = NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """The bundle (its files verified), its source for a module's inputs, and texts to compare on.

    `texts` are read by the host's tokenizer; a module has none.
    """

    bundle: Path
    info: Manifest
    model: Model
    texts: Sequence[str]
    progress: Progress

    def limit(self, metric: str) -> float:
        """How far two engines may be apart that may each be EXPORT's limit from the exact codes.

        Errors add up; what grows with their square (a divergence, 1 - cosine) takes four times.
        """
        one = EXPORT[f"export_{metric}"][0][activation_column(self.info.data)]
        if metric == "cosine_min":
            return 1 - 4 * (1 - one)
        return 4 * one if metric == "kl_mean" else 2 * one

    @property
    def tie(self) -> float:
        """Two tokens so near in the host's logits (nats) are equally likely within the limit.

        KL is half the variance of the logits' difference: this is four standard deviations.
        """
        return 4 * math.sqrt(2 * self.limit("kl_mean"))


class Task(Protocol):
    """What is asked of both engines, and how the answers are compared."""

    @property
    def samples(self) -> int:
        """How many inputs there are."""
        ...

    def answers(self, worker: Worker) -> list[Array]:
        """An engine's answer to each input."""
        ...

    def compare(self, step: str, here: list[Array], there: list[Array]) -> Iterator[Row]:
        """Rows of one level; `here` are the host's answers."""
        ...


def emulators_of(names: Sequence[str], info: Manifest) -> list[Emulator]:
    """The levels with the bundle's engine; refuses at once where a tool or kit is lacking."""
    if names and is_for_gpu(info.data):
        raise UnsupportedError("check --on", "a bundle for GPUs", "one for the processor emulated")
    return [Emulator.of(LEVELS[name], info.engine.name) for name in dict.fromkeys(names)]


def prepare(emulators: Sequence[Emulator], progress: Progress) -> None:
    """Download and compile what is not in the cache, before anything is measured."""
    for done, emulator in enumerate(emulators):
        progress(f"compile for {emulator.level.name}", done, len(emulators))
        _ = emulator.program, emulator.sysroot
    if emulators:
        progress("compile for emulated levels", len(emulators), len(emulators))


def rows(subject: Subject, emulators: Sequence[Emulator]) -> Iterator[Row]:
    """For each level how the runner's answers differ from the host's, and how long it took.

    `emulators` are prepared.
    """
    with Worker(subject.bundle, verify="never", threads=THREADS) as host:
        task = _task(subject, host)
        here = task.answers(host)
        for done, emulator in enumerate(emulators):
            subject.progress(f"compare on {emulator.level.name}", done, len(emulators))
            try:
                yield from _level_rows(subject, emulator, host, task, here)
            except (MissingLibraryError, UnsupportedError):
                raise
            except EdgecompileError as failed:  # the engine died or refused: that is the finding
                yield exact(emulator.level.name, "host_comparison", [str(failed)], 1)
        subject.progress("compare on emulated levels", len(emulators), len(emulators))


def proven_on(emulators: Sequence[Emulator], host: Mapping[str, str]) -> dict[str, str]:
    """The report's field: which processors were emulated by which qemu, and on what machine."""
    levels = [one.level for one in emulators]
    kit = emulators[0].kit
    return {
        "cpu": f"emulated arm64 {', '.join(level.model for level in levels)} "
        f"(qemu {emulators[0].tools.qemu_version})",
        "level": ", ".join(level.name for level in levels),
        "device": "emulated",
        "host": f"{host['cpu']} ({host['level']})",
        "engine": f"{kit.engine} {kit.version}",
    }


def _level_rows(
    subject: Subject, emulator: Emulator, host: Worker, task: Task, here: list[Array]
) -> Iterator[Row]:
    level = emulator.level
    start, used = time.perf_counter(), _children_seconds()
    with EmulatedWorker(emulator, subject.bundle, subject.info, host, THREADS) as there:
        loaded = time.perf_counter()
        found = task.answers(there)
        ended = time.perf_counter()
        golden = there.self_test() if subject.info.golden else []
    if golden:
        failed = [f"{one['fault']} {one['deviation']}" for one in golden if not one["passed"]]
        yield exact(level.name, "golden_failing", failed, len(golden))
    yield from task.compare(level.name, here, found)
    yield _seconds(level, "emulated_load_time", loaded - start, 1)
    yield _seconds(level, "emulated_run_time", ended - loaded, task.samples)
    yield _seconds(level, "emulated_cpu_time", _children_seconds() - used, task.samples)


def _children_seconds() -> float:
    """Processor seconds of child processes that have ended: the host's worker has not."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(level: Level, metric: str, value: float, samples: int) -> Row:
    return judged(level.name, Measurement(metric, value, "s", "lower", samples))


def _task(subject: Subject, host: Worker) -> Task:
    if has_several_graphs(subject.info.task):
        raise UnsupportedError("--on", "two graphs", "a model of one", "check it on the device")
    if subject.info.task == "text-generation":
        return Generation(subject, host)
    if subject.info.task == "module":
        return ModuleRuns(subject)
    if subject.info.task in (*PER_TOKEN, *PAIRS):
        raise UnsupportedError(
            "check --on", f"task {subject.info.task}", "vectors, classes of texts or generation"
        )
    return Encoding(subject, host)


@dataclass(frozen=True)
class Encoding:
    """Vectors, or class probabilities, of a few short texts."""

    subject: Subject
    host: Worker

    @cached_property
    def texts(self) -> list[str]:
        """The first texts of at most TEXT_TOKENS tokens; the shortest ones where there are none."""
        texts = list(self.subject.texts)
        lengths = dict(zip(texts, map(len, self.host.tokenize(texts)), strict=True))
        short = [text for text in texts if lengths[text] <= TEXT_TOKENS]
        return (short or sorted(texts, key=lengths.__getitem__))[:TEXTS]

    @property
    def samples(self) -> int:
        """Texts."""
        return len(self.texts)

    def answers(self, worker: Worker) -> list[Array]:
        """One text a call: a batch may share one range of activations, and an app asks so."""
        if self.subject.info.task == "embedding":
            return [worker.embed([text])[0] for text in self.texts]
        answers = [worker.classify([text])[0] for text in self.texts]
        labels = self.subject.info.labels
        return [np.array([answer[name] for name in labels]) for answer in answers]

    def compare(self, step: str, here: list[Array], there: list[Array]) -> Iterator[Row]:
        """Cosines of vectors; divergence of probabilities, and classes that are not equal."""
        if self.subject.info.task == "embedding":
            measured = cosine.measure(cosine.cosines(np.array(here), np.array(there)))[2]
            yield _judged(self.subject, step, measured)
            return
        logits = [np.log(np.maximum(np.array(side), 1e-30)) for side in (here, there)]
        yield from _choice_rows(self.subject, step, [logits[0]], [logits[1]])


@dataclass(frozen=True)
class Generation:
    """Prompts with their greedy continuation: one token at a time, then all at once."""

    subject: Subject
    host: Worker

    @cached_property
    def paths(self) -> list[tuple[list[int], list[int]]]:
        """(prompt, the host's continuation) of each text."""
        found = []
        for ids in self.host.tokenize(self.subject.texts[:PROMPTS]):
            prompt = ids[:PROMPT_TOKENS]
            found.append((prompt, self.host.generate_timed(prompt, NEW_TOKENS)["tokens"]))
        return found

    @property
    def samples(self) -> int:
        """Tokens of all paths, each computed twice but for the prompts' own."""
        return sum(len(prompt) + len(tokens) for prompt, tokens in self.paths)

    def answers(self, worker: Worker) -> list[Array]:
        """For each path its logits [tokens, vocabulary], then the engine's own continuation."""
        found: list[Array] = []
        for prompt, tokens in self.paths:
            # A chunk is valid until the next one: np.concatenate copies.
            pieces = [np.array(chunk) for chunk in worker.logits([*prompt, *tokens])]
            found += [np.concatenate(pieces)]
            found += [np.array(worker.generate_timed(prompt, len(tokens))["tokens"])]
        return found

    def compare(self, step: str, here: list[Array], there: list[Array]) -> Iterator[Row]:
        """Divergence and choices on the host's path; then the first token that is another."""
        yield from _choice_rows(self.subject, step, here[::2], there[::2])
        wrong, equal = [], 0
        for (prompt, _), logits, mine, other in zip(
            self.paths, here[::2], here[1::2], there[1::2], strict=True
        ):
            at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b), None)
            equal += len(mine) if at is None else at
            if at is not None:
                row = logits[len(prompt) + at - 1]
                margin = float(row[mine[at]] - row[other[at]])
                if not margin <= self.subject.tie:
                    wrong.append(f"token {at}: {other[at]}, not {mine[at]} by {margin:.3f} nats")
        total = sum(len(tokens) for _, tokens in self.paths)
        yield exact(step, "host_tokens_differing", wrong, total)
        share = Measurement("host_tokens_equal", equal / total, "", "higher", total)
        yield judged(step, share)


@dataclass(frozen=True)
class ModuleRuns:
    """A module's raw outputs on its example inputs and changes of them."""

    subject: Subject

    @cached_property
    def inputs(self) -> list[dict[str, Array]]:
        """Arrays by name."""
        from edgecompile.reference import Reference

        examples = Reference(self.subject.model, lean=True).example_inputs
        return list(perturbed(examples, 0, MODULE_INPUTS))

    @property
    def samples(self) -> int:
        """Inputs."""
        return len(self.inputs)

    def answers(self, worker: Worker) -> list[Array]:
        """All outputs of all inputs, in order."""
        return [value for arrays in self.inputs for value in worker.run(**arrays).values()]

    def compare(self, step: str, here: list[Array], there: list[Array]) -> Iterator[Row]:
        """The largest relative error."""
        same = len(here) == len(there)
        values = [error.relative_error(a, b) for a, b in zip(here, there, strict=False)]
        worst = float(np.max(values)) if same else math.nan
        measured = Measurement("relative_error", worst, "", "lower", len(values))
        yield _judged(self.subject, step, measured)


def _choice_rows(
    subject: Subject, step: str, here: list[Array], there: list[Array]
) -> Iterator[Row]:
    """Of logits [rows, choices]: mean divergence, and choices that differ by more than a tie."""
    kl, wrong, ties = [], [], 0
    for a, b in zip(here, there, strict=True):
        if a.shape != b.shape:
            yield exact(step, "host_comparison", [f"logits {b.shape}, not {a.shape}"], 1)
            return
        kl.append(divergences(log_softmax(a), log_softmax(b)))
        for row in np.flatnonzero(a.argmax(1) != b.argmax(1)):
            margin = float(a[row].max() - a[row, b[row].argmax()])
            if margin <= subject.tie:
                ties += 1
            else:
                wrong.append(f"row {row} by {margin:.3f} nats")
    values = np.concatenate(kl)
    yield _judged(subject, step, Measurement("kl_mean", mean(values), "nats", "lower", len(values)))
    yield exact(step, "host_choices_differing", wrong, len(values))
    yield judged(step, Measurement("host_choices_tied", float(ties), "", "lower", len(values)))


def _judged(subject: Subject, step: str, measured: Measurement) -> Row:
    named = Measurement(
        f"host_{measured.metric}", measured.value, measured.unit, measured.better, measured.samples
    )
    return judged(step, named, subject.limit(measured.metric))
