"""What a bundle of speech needs to transcribe, put together and checked."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

from .engine import Engine
from .errors import BadInputError, UsageError
from .manifest import Manifest
from .seq2seq import Seq2SeqDecoder
from .speech import SpeechTokens
from .tokens import Tokens
from .transcription import PROMPT_SHARE, Transcriber, Wish


def transcriber(engine: Engine, info: Manifest, tokens: Tokens) -> Transcriber:
    """What transcribes with that engine; BadInputError where the manifest lacks what it needs."""
    generation, speech = info.generation, info.speech
    if speech is None or info.audio is None or generation is None:
        raise BadInputError("manifest", "no audio, speech or generation section", "all three")
    _refuse_unknown(speech, info.data["outputs"])
    assert generation.start_token_id is not None  # seq2seq.Layout has seen to it
    decoder = cast("Callable[[int], AbstractContextManager[Seq2SeqDecoder]]", engine.decoder)
    return Transcriber(
        speech, info.audio, generation.start_token_id, frozenset(generation.stop_token_ids),
        generation.context_length, decoder, tokens.decode,
    )  # fmt: skip


def _refuse_unknown(speech: SpeechTokens, outputs: list[dict[str, list[int]]]) -> None:
    """Ids beyond the logits, which are indexed with them."""
    rows = next(port["shape"][-1] for port in outputs if port["name"] == "logits")  # type: ignore[comparison-overlap]
    single = (speech.no_timestamps_id, speech.previous_id, speech.no_speech_id)
    ids = [
        *speech.languages.values(), *speech.tasks.values(), *speech.suppress,
        *speech.begin_suppress, *(one for one in single if one is not None),
        (speech.no_timestamps_id or 0) + speech.timestamps,
    ]  # fmt: skip
    if max(ids) >= rows:
        raise BadInputError("manifest: speech", f"token {max(ids)}", f"ids below {rows}")


def wish(
    one: Transcriber, tokens: Tokens, language: str | None, task: str, timed: bool, prompt: str
) -> Wish:  # fmt: skip
    """What a caller asks for in tokens, or a UsageError that names what there is."""
    known = one.tokens.language(language)
    one.tokens.beginning(known, task, timed)  # raises for a task that it has not
    if timed and not one.tokens.timestamps:
        raise UsageError("timestamps", "True", "False: this model has no tokens for times")
    if not prompt:
        return Wish(known, task, timed)
    if one.tokens.previous_id is None:
        raise UsageError("prompt", repr(prompt)[:100], "none: this model has no token for it")
    ids = tokens.encode([" " + prompt.strip()], special=False)[0]
    longest = one.context // PROMPT_SHARE - 1  # the latest words count, as in Whisper itself
    return Wish(known, task, timed, tuple(ids[-longest:]))
