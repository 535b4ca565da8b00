"""Speech: is sound prepared as the source's front end does, and are the same words heard?"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecompile import tokenizer
from edgecompile.checks import own, stages
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison, need
from edgecompile.checks.earlier import Earlier
from edgecompile.checks.stored import store_of
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement, logits, wer
from edgecompile.metrics.logits import Chunks
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.passes import Progress
from edgecompile.reference import Reference
from edgecompile.report import Row, judged
from edgecompile.runtime.speech import TRANSCRIBE
from edgecompile.runtime.worker_client import Worker
from edgecompile.sources import processors
from edgecompile.sources.speech import speech_tokens
from edgecompile.text.parts import Document
from edgecompile.text.sounds import open_sound
from edgecompile.text.source_tokens import SourceTokens

LEAST_WORDS = 300  # said; none that differs then bounds the loss at 3 / 300
FEW_WORDS = f"measured, not judged: fewer than {LEAST_WORDS} words were said"
NO_WORDS = "measured, not judged: no speech is in the default sounds; give --data"


@dataclass(frozen=True)
class Clip:
    """One window of sound, and an answer: the source's own, or the words that are in it."""

    samples: Float32
    features: Float32  # as the source's front end has them
    answer: list[int]  # tokens from the start token on, of which `given` are no answer
    given: int
    source: str  # what the source hears
    said: str | None

    @property
    def asked(self) -> NDArray[np.int64]:
        """The answer's tokens."""
        return np.array(self.answer[self.given :], np.int64)


Side = Callable[[int], Chunks]  # logits of a sound's answer, by its number


def rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Preparation, divergence on answers, words; `documents` longer than a window are cut to it."""
    options = comparison.options
    heard = clips(
        comparison.reference, need(comparison.source_tokens), documents[: options.texts],
        options.tokens, comparison.progress,
    )  # fmt: skip
    found = [comparison.worker.features(clip.samples) for clip in heard]
    error = max(
        float(np.abs(clip.features - one).max()) for clip, one in zip(heard, found, strict=True)
    )
    measured = Measurement("audio_error", error, "", "lower", len(heard))
    first, failed = comparison.judge(QUALITY, measured), False
    for row in itertools.chain([first], _heard(comparison, heard, found, documents)):
        failed = failed or row.verdict == "fail"
        yield row
    few = heard[: _few(comparison)]
    with comparison.same_codes():
        exported = _compare(comparison, few, found, "same codes")[0]
    row = comparison.judge(EXPORT, replace(exported, metric="export_kl_mean"))
    yield row
    yield from _stages(comparison, few, found, failed or row.verdict == "fail")


def _heard(
    comparison: Comparison, clips: Sequence[Clip], found: Sequence[Float32],
    documents: Sequence[Document],
) -> Iterator[Row]:  # fmt: skip
    """Distributions and words beside the source's."""
    for one in _compare(comparison, clips, found, "source"):
        yield comparison.judge(QUALITY, one)
    yield from _words(comparison, clips, documents)


def _stages(
    comparison: Comparison, few: Sequence[Clip], features: Sequence[Float32], failed: bool
) -> Iterator[Row]:
    """`kl_mean` of the first sounds' answers after each stage; `features` are the runtime's."""

    def stored(name: str) -> Side:
        store = store_of(comparison.memo, name)
        return lambda at: store.read(at)

    def heard(worker: Worker, inputs: Sequence[Float32]) -> Side:
        return lambda at: _after(few[at], worker.logits(few[at].answer, inputs[at]))

    def earlier(one: Earlier) -> Side:
        store = store_of(comparison.memo, one.what)
        with one.asked() as reference:
            for at, clip in enumerate(few):
                whole = reference.answer_logits(clip.features, clip.answer)
                store.add(at, [whole[clip.given :]])
        return stored(one.what)

    def divergence(before: Side, after: Side) -> Measurement:
        return logits.measure(
            (logits.compared_window(clip.asked, before(at), after(at)),
             np.full(len(clip.asked), at)) for at, clip in enumerate(few)
        )[0]  # fmt: skip

    with comparison.graph(failed) as graph:
        sides = {
            stages.QUANTIZED: stored("same codes"),
            stages.GRAPH: heard(graph, [clip.features for clip in few]),
            stages.RUNTIME: heard(comparison.worker, features),
        }
        yield from stages.through(comparison.chain, stored("source"), sides, earlier, divergence)


def clips(
    reference: Reference, tokens: SourceTokens, documents: Sequence[Document], total: int,
    progress: Progress,
) -> list[Clip]:  # fmt: skip
    """Windows of sound with what the source hears, until the answers have `total` tokens."""
    model = reference.model
    if (audio := model.audio) is None:
        raise BadInputError("manifest", "no audio section", "one for a model of speech")
    front = processors.source_front_end(model.folder)
    start, found, count = _beginning(model), list[Clip](), 0
    for done, document in enumerate(documents):
        progress("listen with the source", done, len(documents))
        whole = open_sound(document, audio)
        samples = whole[: audio.n_samples]
        features = np.asarray(
            front(samples, sampling_rate=audio.sampling_rate, return_tensors="np")
            .input_features[0], np.float32,
        )  # fmt: skip
        ids, text = reference.transcribe(features)
        said = document.label if whole.size <= audio.n_samples else None
        words = ids if said is None else _ids(tokens, said)
        answer = [*start, *words][: tokenizer.context_length(model)]
        found.append(Clip(samples, features, answer, len(start) - 1, text, said))
        count += len(answer)
        if count >= total:
            break
    if not found:
        raise BadInputError("--data", "no held-out sound", "a few WAV files")
    return found


def _beginning(model: Model) -> list[int]:
    """The start token and what follows it, of the first language where there are several."""
    section = tokenizer.generation(model)
    known = speech_tokens(model)
    language = next(iter(known.languages.values()), None)
    assert section is not None
    return [int(section["start_token_id"]), *known.beginning(language, TRANSCRIBE, timed=False)]


def _ids(tokens: SourceTokens, said: str) -> list[int]:
    """Tokens of words that are in a sound, as a transcript has them: a space, then the words."""
    around, whole = tokens.encode([""])[0], tokens.encode([" " + said.strip()])[0]
    before = next((n for n, (a, b) in enumerate(zip(around, whole, strict=False)) if a != b),
                  len(around))  # fmt: skip
    return whole[before : len(whole) - (len(around) - before)]


def _compare(
    comparison: Comparison, clips: Sequence[Clip], features: Sequence[Float32], what: str
) -> tuple[Measurement, ...]:
    """Next-token distributions after each token of an answer, each side with its own features.

    The reference's logits of the first sounds are kept under the name `what`.
    """
    rows_ = []
    store, few = store_of(comparison.memo, what), _few(comparison)
    for done, (clip, found) in enumerate(zip(clips, features, strict=False)):
        comparison.progress(f"compare with the {what}", done, len(clips))
        source = comparison.reference.answer_logits(clip.features, clip.answer)[clip.given :]
        if done < few:
            store.add(done, [source])
        shipped = _after(clip, comparison.worker.logits(clip.answer, found))
        rows_.append((logits.compared_window(clip.asked, [source], shipped),
                      np.full(len(clip.asked), done)))  # fmt: skip
    comparison.progress(f"compare with the {what}", len(clips), len(clips))
    return logits.measure(rows_)


def _few(comparison: Comparison) -> int:
    """Sounds whose answers are asked of all stages."""
    return max(1, comparison.options.fidelity_texts // 2)


def _after(clip: Clip, chunks: Iterable[Float32]) -> list[Float32]:
    """Logits after the tokens that are no part of the answer."""
    return [np.concatenate([part.copy() for part in chunks])[clip.given :]]


def _words(
    comparison: Comparison, clips: Sequence[Clip], documents: Sequence[Document]
) -> Iterator[Row]:
    """Words against the source's, and both against what is said where that is known.

    An edit distance is a metric, so d(bundle, said) <= d(source, said) + d(bundle, source).
    """
    heard = [comparison.worker.transcribe(clip.samples)["text"] for clip in clips]
    source = [clip.source for clip in clips]
    cut = [replace(one, label=clip.said) for one, clip in zip(documents, clips, strict=False)]
    yield from own.rows(comparison, own.paired(cut, source, heard))
    difference = wer.measure("transcript_difference", source, heard)
    speech = documents[0].recording is not None and documents[0].recording.file is not None
    known = [at for at, clip in enumerate(clips) if clip.said is not None]
    said = [clips[at].said or "" for at in known]
    if known:
        sides = [wer.rate(said, [texts[at] for at in known]) for texts in (source, heard)]
        (before, total), (after, _) = sides
        yield judged(QUALITY, Measurement("word_error_rate", after, "", "lower", total))
        yield judged(QUALITY, Measurement("word_error_rate_source", before, "", "lower", total))
        if before < 1:  # a source that hears nothing right has no accuracy to keep
            kept = wer.accuracy_ratio(said, *([t[at] for at in known] for t in (source, heard)))
            if total >= LEAST_WORDS:
                yield comparison.judge(QUALITY, kept)
                yield judged(QUALITY, difference)
                return
            yield judged(QUALITY, kept, None, FEW_WORDS)
    if not speech or difference.samples < LEAST_WORDS:
        yield judged(QUALITY, difference, None, FEW_WORDS if speech else NO_WORDS)
        return
    yield comparison.judge(QUALITY, difference)
