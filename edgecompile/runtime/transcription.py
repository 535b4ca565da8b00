"""Speech to text with Whisper: windows of sound, greedy tokens, timestamps that say where to go on.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), 3.8 and
4.5, and openai-whisper's `transcribe.py` and `decoding.py`, whose rules and numbers these are.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .audio import AudioInput
from .engine import Float32
from .seq2seq import Seq2SeqDecoder
from .speech import SpeechTokens
from .transcript import Segment, Transcript

SILENCE = 1e-4  # of full scale: what is nowhere louder is not given to the model
NO_SPEECH, UNLIKELY = 0.6, -1.0  # probability, and mean log-probability of the tokens
LEAST_STEP = 30  # parts of a window: so much of it at least is passed over
CUT_FROM = 0.75  # of a window: a cut without timestamps lies after this, where it is quietest
QUIET = 0.2  # seconds over which loudness is measured for it
PROMPT_SHARE = 2  # a prompt may take one token in so many of the context


@dataclass(frozen=True)
class Wish:
    """How to transcribe: `language` None is found out; `prompt` are ids before the first window."""

    language: int | None
    task: str
    timed: bool = False
    prompt: tuple[int, ...] = ()


@dataclass(frozen=True)
class Heard:
    """A window's tokens, their mean log-probability, and how likely nobody speaks in it."""

    tokens: list[int]
    likelihood: float
    no_speech: float
    language: int | None


@dataclass(frozen=True)
class Transcriber:
    """What a bundle knows: its tokens, its front end, and how to get a decoder and text."""

    tokens: SpeechTokens
    audio: AudioInput
    start: int
    ends: frozenset[int]
    context: int
    decoder: Callable[[int], AbstractContextManager[Seq2SeqDecoder]]
    text: Callable[[Sequence[int]], str]

    def transcribe(self, samples: Float32, wish: Wish) -> Transcript:
        """Samples float32 [n] at the model's rate, of any length."""
        language, found, texts = wish.language, [], []
        for offset, heard, segments in self._windows(samples, wish):
            language = heard.language if language is None else language
            spoken = [token for token in heard.tokens if token < self.tokens.first_timestamp]
            kept = [token for one in segments for token in one[2]] if segments else spoken
            texts.append(self.text(kept))
            rate = self.audio.sampling_rate
            for start, end, ids in segments:
                last = min(offset + end, samples.size / rate)
                if text := self.text(ids).strip():
                    found.append(Segment(round(offset + start, 3), round(last, 3), text))
        names = {token: name for name, token in self.tokens.languages.items()}
        known = None if language is None else names.get(language)
        return Transcript("".join(texts).strip(), known, tuple(found))

    def _windows(
        self, samples: Float32, wish: Wish
    ) -> Iterator[tuple[float, Heard, list[tuple[float, float, list[int]]]]]:
        """Each window with speech: seconds before it, what was heard, its pieces by time."""
        size, at = self.audio.n_samples, 0
        long = samples.size > size
        timed = bool(self.tokens.timestamps) and (wish.timed or long)
        language, prompt = wish.language, wish.prompt
        while at < samples.size:
            window = samples[at : at + size]
            if np.abs(window).max() < SILENCE:
                at += size
                continue
            with_time = Wish(language, wish.task, timed, prompt)
            heard = self.hear(self.audio.spectrogram(window), with_time)
            # The rest of a recording is in the language that its beginning is in.
            language, prompt = heard.language, ()
            seconds = at / self.audio.sampling_rate
            if heard.no_speech > NO_SPEECH and heard.likelihood < UNLIKELY:
                at += size
                continue
            pieces, used = self._pieces(heard.tokens, window, timed)
            if not timed and long and at + size < samples.size:
                used = self._quietest(window)
            yield seconds, heard, pieces
            at += max(used, size // LEAST_STEP)

    def hear(self, features: Float32, wish: Wish) -> Heard:
        """One window's log-mel [mels, frames]: greedy tokens up to the end token or the context."""
        before = [self.tokens.previous_id, *wish.prompt] if wish.prompt else []
        with self.decoder(self.context) as decoder:
            decoder.begin(features)
            language = wish.language
            if language is None and self.tokens.languages:
                logits = decoder.feed([self.start])
                ids = list(self.tokens.languages.values())
                language = ids[int(np.argmax(logits[ids]))]
                decoder.restart()
            first = decoder.feed([*before, self.start])  # type: ignore[list-item]
            silent = self._probability(first, self.tokens.no_speech_id)
            rest = self.tokens.beginning(language, wish.task, wish.timed)
            logits = decoder.feed(rest) if rest else first
            room = self.context - len(before) - 1 - len(rest)
            found, total = self._greedy(decoder, logits, room, wish.timed)
        return Heard(found, total / (len(found) + 1), silent, language)

    def _greedy(
        self, decoder: Seq2SeqDecoder, logits: Float32, room: int, timed: bool
    ) -> tuple[list[int], float]:
        """Tokens before the end token, and the sum of all log-probabilities."""
        found: list[int] = []
        total = 0.0
        while True:
            scores = allowed(logits, found, self.tokens, self.ends, timed)
            token = int(np.argmax(scores))
            total += float(scores[token]) - _log_sum(scores)
            if token in self.ends:
                return found, total
            found.append(token)
            if len(found) >= room:
                return found, total
            logits = decoder.feed([token])

    def _pieces(
        self, tokens: list[int], window: Float32, timed: bool
    ) -> tuple[list[tuple[float, float, list[int]]], int]:
        """Pieces of a window as (start, end in seconds, text's ids), and samples to go on after.

        A piece that the window's end may have cut off is left for the next window.
        """
        whole = window.size / self.audio.sampling_rate
        if not timed:
            return [(0.0, whole, tokens)], self.audio.n_samples
        first, step = self.tokens.first_timestamp, self.tokens.timestamp_seconds
        is_time = [token >= first for token in tokens]
        cuts = [at + 1 for at in range(len(tokens) - 1) if is_time[at] and is_time[at + 1]]
        done = is_time[-2:] == [False, True]  # nothing is said after the last timestamp
        if not cuts:
            times = [token - first for token in tokens if token >= first]
            last = times[-1] * step if times and times[-1] else whole
            begin = times[0] * step if len(times) > 1 else 0.0
            text = [token for token in tokens if token < first]
            return [(begin, last, text)], self.audio.n_samples
        pieces = []
        for begin_at, end_at in zip([0, *cuts], [*cuts, *([len(tokens)] if done else [])],
                                    strict=False):  # fmt: skip
            part = tokens[begin_at:end_at]
            text = [token for token in part if token < first]
            pieces.append(((part[0] - first) * step, (part[-1] - first) * step, text))
        used = round((tokens[cuts[-1] - 1] - first) * step * self.audio.sampling_rate)
        return pieces, self.audio.n_samples if done else used

    def _quietest(self, window: Float32) -> int:
        """Where to cut without timestamps: the middle of the quietest moment near the end."""
        span = int(QUIET * self.audio.sampling_rate)
        first = int(window.size * CUT_FROM)
        if window.size - first <= 2 * span:
            return window.size
        energy = np.cumsum(np.square(window[first:], dtype=np.float64))
        return first + int(np.argmin(energy[span:] - energy[:-span])) + span // 2

    @staticmethod
    def _probability(logits: Float32, token: int | None) -> float:
        if token is None:
            return 0.0
        return float(np.exp(float(logits[token]) - _log_sum(logits)))


def allowed(
    logits: Float32, found: Sequence[int], tokens: SpeechTokens, ends: frozenset[int], timed: bool
) -> Float32:
    """Logits [vocabulary] with -inf for what may not follow the tokens `found` of a window."""
    scores = logits.astype(np.float32, copy=True)
    scores[list(tokens.suppress)] = -np.inf
    if not found:
        scores[list(tokens.begin_suppress)] = -np.inf
    if timed:
        _timestamp_rules(scores, found, tokens, min(ends, default=0))
    else:
        scores[tokens.first_timestamp :] = -np.inf  # a trained model says none by itself
    return scores


def _timestamp_rules(
    scores: NDArray[np.float32], found: Sequence[int], tokens: SpeechTokens, end: int
) -> None:
    """They come in pairs, begin a window, never go back, and win where they are likelier in sum."""
    first = tokens.first_timestamp
    scores[tokens.no_timestamps_id] = -np.inf
    last = bool(found) and found[-1] >= first
    before = len(found) < 2 or found[-2] >= first
    if last and before:
        scores[first:] = -np.inf
    elif last:
        scores[:end] = -np.inf
    times = [token for token in found if token >= first]
    if times:
        scores[first : times[-1] + (0 if last and not before else 1)] = -np.inf
    if not found:
        scores[:first] = -np.inf
        if tokens.max_initial_timestamp is not None:
            scores[first + tokens.max_initial_timestamp + 1 :] = -np.inf
    if _log_sum(scores[first:]) > float(scores[:first].max()):
        scores[:first] = -np.inf


def _log_sum(scores: Float32) -> float:
    """Logarithm of the sum of exponentials; -inf where all are."""
    highest = float(scores.max())
    if not np.isfinite(highest):
        return highest
    return highest + float(np.log(np.exp(scores - highest, dtype=np.float64).sum()))
