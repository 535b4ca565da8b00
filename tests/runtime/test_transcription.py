"""What may be said next, and where a window's pieces end: transformers' own rules beside ours."""
from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from edgecompile.runtime.audio import AudioInput
from edgecompile.runtime.errors import BadInputError, UsageError
from edgecompile.runtime.speech import SpeechTokens
from edgecompile.runtime.transcription import Transcriber, Wish, allowed

END, SILENT, ROWS = 20, 29, 131  # tokens before END are text, after SILENT come 101 times
TOKENS = SpeechTokens(
    {"en": 22, "de": 23}, {"transcribe": 25, "translate": 24}, SILENT, 101, 0.02, 50, (3, 21),
    (5, END), 27, 28,
)  # fmt: skip
ENGLISH = SpeechTokens({}, {}, SILENT, 101, 0.02, None, (), (), None, None)
AUDIO = AudioInput(16_000, 400, 160, 80, 32_000)
BEGINNINGS: list[list[int]] = [
    [], [30], [30, 7], [30, 7, 8], [30, 7, 45], [30, 7, 45, 45], [30, 7, 45, 45, 9], [33],
    [33, 7, 60, 61, 8],
]  # fmt: skip


class Silent:
    """A decoder that fails whoever feeds it."""

    def begin(self, _: object) -> None:
        raise AssertionError("the model was asked")


def listener(tokens: SpeechTokens = TOKENS) -> Transcriber:
    return Transcriber(
        tokens, AUDIO, 21, frozenset({END}), 48, lambda _: nullcontext(Silent()),  # type: ignore[arg-type]
        lambda ids: " ".join(map(str, ids)),
    )  # fmt: skip


@pytest.mark.parametrize("found", BEGINNINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_timestamps_follow_the_rules_of_transformers(found: list[int], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=ROWS).astype(np.float32) * 3
    config = GenerationConfig(
        no_timestamps_token_id=SILENT, eos_token_id=END, max_initial_timestamp_index=50
    )
    begin = [21, 22, 25]
    rule = WhisperTimeStampLogitsProcessor(config, begin_index=len(begin))
    given = torch.from_numpy(logits.copy())
    given[[3, 21]] = -np.inf
    if not found:
        given[[5, END]] = -np.inf
    expected = rule(torch.tensor([[*begin, *found]]), given[None])[0].numpy()
    assert np.array_equal(allowed(logits, found, TOKENS, frozenset({END}), True), expected)


def test_without_timestamps_no_time_is_said() -> None:
    scores = allowed(np.zeros(ROWS, np.float32), [1], TOKENS, frozenset({END}), False)
    assert np.isneginf(scores[SILENT + 1 :]).all()
    assert np.isneginf(scores[[3, 21]]).all()
    assert scores[5] == 0  # is suppressed at the beginning alone


def segments(tokens: list[int]) -> tuple[list[tuple[float, float]], int]:
    """Times of transformers' segments, and frames that it goes on after."""
    found, frames = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(tokens), seek_outputs=[None], time_offset=torch.zeros(1),
        timestamp_begin=SILENT + 1, seek_num_frames=torch.tensor([200]), time_precision=0.02,
        time_precision_features=0.01, input_stride=2, prev_idx=0, idx=0,
        return_token_timestamps=False, decoder_input_ids=torch.zeros((1, 3)),
    )  # fmt: skip
    return [(float(one["start"]), float(one["end"])) for one in found], int(frames)


@pytest.mark.parametrize(
    "tokens",
    [
        [30, 1, 2, 60], [30, 1, 60, 60, 2, 90], [30, 1, 60, 60], [30, 1, 60, 65, 2, 90, 92],
        [30, 1, 60, 62, 2, 3],
    ],
    ids=str,
)  # fmt: skip
def test_pieces_and_the_place_to_go_on_are_those_of_transformers(tokens: list[int]) -> None:
    window = np.ones(AUDIO.n_samples, np.float32)
    pieces, used = listener()._pieces(tokens, window, timed=True)
    expected, frames = segments(tokens)
    assert np.allclose([piece[:2] for piece in pieces], expected)
    assert used == frames * AUDIO.hop_length


def test_silence_and_nothing_are_not_given_to_the_model() -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(200_000, np.float32)):
        found = listener().transcribe(samples, Wish(None, "transcribe"))
        assert (found.text, found.segments) == ("", ())


def test_an_hour_of_silence_takes_no_memory_of_its_own() -> None:
    import tracemalloc

    samples = np.zeros(3600 * 16_000, np.float32)
    tracemalloc.start()
    listener().transcribe(samples, Wish(None, "transcribe"))
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_a_cut_without_timestamps_lies_where_it_is_quietest() -> None:
    window = np.ones(AUDIO.n_samples, np.float32)
    window[28_000:31_200] = 0
    assert listener()._quietest(window) == pytest.approx(29_600, abs=2)


@pytest.mark.parametrize("name", ["en", "EN", "<|en|>", " en "])
def test_a_language_goes_by_its_code_or_its_token(name: str) -> None:
    assert TOKENS.language(name) == 22


def test_an_unknown_language_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="one of en, de"):
        TOKENS.language("klingon")


def test_a_model_of_english_alone_takes_no_other_language_and_does_not_translate() -> None:
    assert ENGLISH.language("en") is None
    assert ENGLISH.beginning(None, "transcribe", timed=False) == [SILENT]
    with pytest.raises(UsageError, match="English alone"):
        ENGLISH.language("de")
    with pytest.raises(UsageError, match="English alone"):
        ENGLISH.beginning(None, "translate", timed=False)


def test_an_unknown_task_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="transcribe, translate"):
        TOKENS.beginning(22, "sing", timed=False)


def test_the_section_comes_back_as_it_was_written() -> None:
    assert SpeechTokens.from_manifest(TOKENS.as_manifest()) == TOKENS


@pytest.mark.parametrize(
    "changes",
    [
        {"languages": ["en"]}, {"languages": {"en": -1}}, {"suppress": [True]}, {"timestamps": -1},
        {"timestamp_seconds": 0}, {"suppress": "all"}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_section_that_is_not_right_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="speech"):
        SpeechTokens.from_manifest({**TOKENS.as_manifest(), **changes})
