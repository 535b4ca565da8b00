"""Speech: is sound prepared as the source's front end does, and are the same words heard?"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecompile import tokenizer
from edgecompile.checks import own
from edgecompile.checks.comparison import EXPORT, QUALITY, Comparison
from edgecompile.errors import BadInputError
from edgecompile.metrics import Measurement, logits, wer
from edgecompile.numerics.schemes import Float32
from edgecompile.report import Row, judged
from edgecompile.runtime.audio import AudioInput
from edgecompile.runtime.speech import TRANSCRIBE
from edgecompile.sources import processors
from edgecompile.sources.speech import speech_tokens
from edgecompile.text.parts import Document
from edgecompile.text.sounds import open_sound

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


def rows(comparison: Comparison, documents: Sequence[Document]) -> Iterator[Row]:
    """Preparation, divergence on answers, words; `documents` longer than a window are cut to it."""
    audio = comparison.model.audio
    if audio is None:
        raise BadInputError("manifest", "no audio section", "one for a model of speech")
    clips = _clips(comparison, audio, documents)
    few = clips[: max(1, comparison.options.fidelity_texts // 2)]
    found = [comparison.worker.features(clip.samples) for clip in clips]
    error = max(
        float(np.abs(clip.features - one).max()) for clip, one in zip(clips, found, strict=True)
    )
    measured = Measurement("audio_error", error, "", "lower", len(clips))
    yield comparison.judge(QUALITY, measured)
    for one in _compare(comparison, clips, found, "compare with the source"):
        yield comparison.judge(QUALITY, one)
    yield from _words(comparison, clips, documents)
    with comparison.same_codes():
        for one in _compare(comparison, few, found, "compare with the same codes"):
            if one.metric == "kl_mean":
                yield comparison.judge(EXPORT, replace(one, metric="export_kl_mean"))


def _clips(
    comparison: Comparison, audio: AudioInput, documents: Sequence[Document]
) -> list[Clip]:
    """Until their answers have as many tokens as are asked for."""
    front = processors.source_front_end(comparison.model.folder)
    start, clips, tokens = _beginning(comparison), [], 0
    for done, document in enumerate(documents[: comparison.options.texts]):
        comparison.progress("listen with the source", done, len(documents))
        whole = open_sound(document, audio)
        samples = whole[: audio.n_samples]
        features = np.asarray(
            front(samples, sampling_rate=audio.sampling_rate, return_tensors="np")
            .input_features[0], np.float32,
        )  # fmt: skip
        ids, text = comparison.reference.transcribe(features)
        said = document.label if whole.size <= audio.n_samples else None
        words = ids if said is None else _ids(comparison, said)
        answer = [*start, *words][: tokenizer.context_length(comparison.model)]
        clips.append(Clip(samples, features, answer, len(start) - 1, text, said))
        tokens += len(answer)
        if tokens >= comparison.options.tokens:
            break
    if not clips:
        raise BadInputError("--data", "no held-out sound", "a few WAV files")
    return clips


def _beginning(comparison: Comparison) -> list[int]:
    """The start token and what follows it, of the first language where there are several."""
    section = tokenizer.generation(comparison.model)
    known = speech_tokens(comparison.model)
    language = next(iter(known.languages.values()), None)
    assert section is not None
    return [int(section["start_token_id"]), *known.beginning(language, TRANSCRIBE, timed=False)]


def _ids(comparison: Comparison, said: str) -> list[int]:
    """Tokens of words that are in a sound, as a transcript has them: a space, then the words."""
    tokens = comparison.source_tokens
    assert tokens is not None
    around, whole = tokens.encode([""])[0], tokens.encode([" " + said.strip()])[0]
    before = next((n for n, (a, b) in enumerate(zip(around, whole, strict=False)) if a != b),
                  len(around))  # fmt: skip
    return whole[before : len(whole) - (len(around) - before)]


def _compare(
    comparison: Comparison, clips: Sequence[Clip], features: Sequence[Float32], what: str
) -> tuple[Measurement, ...]:
    """Next-token distributions after each token of an answer, each side with its own features."""
    rows_ = []
    for done, (clip, found) in enumerate(zip(clips, features, strict=False)):
        comparison.progress(what, done, len(clips))
        source = comparison.reference.answer_logits(clip.features, clip.answer)[clip.given :]
        ids: NDArray[np.int64] = np.array(clip.answer[clip.given :], np.int64)
        shipped = [part.copy() for part in comparison.worker.logits(clip.answer, found)]
        heard = [np.concatenate(shipped)[clip.given :]]
        rows_.append((logits.compared_window(ids, [source], heard), np.full(len(ids), done)))
    comparison.progress(what, len(clips), len(clips))
    return logits.measure(rows_)


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
