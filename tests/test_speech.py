"""Whisper from end to end: built, checked, and what it hears beside what transformers hears."""
from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgecompile import bundle, golden, registry, sources, target
from edgecompile.check import Limits, check_bundle
from edgecompile.errors import BadInputError, UnsupportedError, UsageError
from edgecompile.graphs import part_of
from edgecompile.model import Model
from edgecompile.passes.quantize_rtn import QuantizeRtn
from edgecompile.plan import Request, plan
from edgecompile.recipe import PassChoice
from edgecompile.reference import Reference
from edgecompile.runtime import Session, load
from edgecompile.runtime._main import main
from edgecompile.sources.speech import speech_tokens
from edgecompile.structure import roles
from edgecompile.text.parts import Corpus
from edgecompile.text.sounds import default_sounds, made_up
from tests import tiny

RATE = 16_000
FEW = Limits(
    tokens=200, fidelity_texts=4, repeats=1, new_tokens=4, threads=2, allow=("no-gain",),
)  # fmt: skip
Samples = NDArray[np.float32]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def opened(folder: Path) -> Model:
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return opened(tiny.whisper(tmp_path_factory.mktemp("whisper") / "m"))


@pytest.fixture(scope="module")
def sealed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    result = QuantizeRtn(bits=8)(model, tiny.work(folder / "codes"))
    files, out, device = folder / "files", folder / "bundle", target.find("cpu")
    files.mkdir()
    out.mkdir()
    backend = registry.create("backends", "onnxruntime", {"accuracy_level": 1}, "test")
    export = backend.export(result.model, files, quiet)
    passes = ((PassChoice("quantize", "quantize_rtn", {"bits": 8}), result),)
    bundle.assemble(bundle.Contents(result.model, device, "", export, passes), files, out)
    golden.add(out)
    return out


@pytest.fixture
def session(sealed: Path) -> Iterator[Session]:
    with load(sealed, threads=2) as one:
        yield one


@pytest.fixture(scope="module")
def coded(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """transformers' model with the weights that the bundle's codes stand for."""
    work = tiny.work(tmp_path_factory.mktemp("codes"))
    reference = Reference(model)
    for name, tensor in QuantizeRtn(bits=8)(model, work).model.quantized.items():
        parameter = reference.body.get_parameter(name)
        parameter.data = torch.from_numpy(tensor.dequantize().reshape(tuple(parameter.shape)))
    return reference


def wav(samples: Samples, rate: int = RATE, channels: int = 1, width: int = 2) -> bytes:
    """The bytes of a file of PCM."""
    data, whole = io.BytesIO(), np.repeat(samples, channels)
    scaled = np.clip(whole * 2.0 ** (8 * width - 1), -(2.0**31), 2.0**31 - 1).astype("<i4")
    raw = scaled.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    with wave.open(data, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(raw)
    return data.getvalue()


SOUND = made_up(5, tiny.SOUND_SECONDS)


def test_each_tensor_is_in_one_graph(model: Model) -> None:
    encoder, decoder = (set(part_of(model, name).weights) for name in ("encoder", "decoder"))
    assert not encoder & decoder
    assert encoder | decoder == set(model.weights)
    assert "model.decoder.layers.1.encoder_attn.v_proj.bias" in encoder


def test_products_convolutions_and_the_tied_embedding_have_their_roles(model: Model) -> None:
    found = roles(model)
    assert found["model.decoder.embed_tokens.weight"] == "embedding"
    assert found["model.encoder.conv1.weight"] == "convolution"
    assert found["model.encoder.embed_positions.weight"] == "other"


def test_the_check_passes(sealed: Path, model: Model) -> None:
    first, *others = default_sounds().held_out[:8]
    known = replace(first, label="the quick brown fox jumps")
    report = check_bundle(sealed, model, Corpus("few", (), (), (known, *others)), FEW, quiet)
    rows = {row.metric: row for row in report.rows}
    assert [one for one in report.rows if one.verdict == "fail"] == []
    assert [one.metric for one in report.rows if one.verdict == "unproven"] == ["kl_p999"]
    judged = ("audio_error", "kl_mean", "export_kl_mean", "tokenizer_differences")
    assert {rows[name].verdict for name in judged} == {"pass"}
    assert rows["transcript_difference"].limit is None  # no words are in those sounds
    assert rows["word_error_rate"].samples == 5
    assert rows["real_time_factor"].value > 0
    assert [one.stage for one in report.stages] == ["quantized", "graph", "runtime"]
    assert 0 < report.stages[0].value < 0.0138


def test_what_is_heard_is_what_transformers_hears(session: Session, coded: Reference) -> None:
    found = []
    for number in range(6):
        sound = made_up(number, tiny.SOUND_SECONDS)
        text = session.transcribe(sound).text
        assert text == coded.transcribe(session.features(sound))[1]
        found.append(text)
    assert len(set(found)) > 1  # the sound has a say


def test_the_language_is_found_out_as_transformers_does(
    session: Session, coded: Reference
) -> None:
    body, known = coded.body, speech_tokens(coded.model).languages
    for number in range(6):
        sound = made_up(number, tiny.SOUND_SECONDS)
        given = torch.from_numpy(session.features(sound))[None]
        right = int(body.detect_language(given, generation_config=coded._generation[0])[0])
        assert known[session.transcribe(sound).language or ""] == right


def test_language_and_task_change_what_the_answer_begins_with(session: Session) -> None:
    both = [session.transcribe(SOUND, language=name) for name in ("en", "de")]
    assert [one.language for one in both] == ["en", "de"]
    assert session.transcribe(SOUND, task="translate").language in ("en", "de")
    with pytest.raises(UsageError, match="one of"):
        session.transcribe(SOUND, language="xx")
    with pytest.raises(UsageError, match="transcribe"):
        session.transcribe(SOUND, task="sing")


def test_a_prompt_is_heard_before_the_first_window(session: Session) -> None:
    plain = session.transcribe(SOUND)
    assert session.transcribe(SOUND, prompt="the quick brown fox " * 20).language == plain.language


def test_a_recording_longer_than_a_window_is_heard_to_its_end(session: Session) -> None:
    long = np.concatenate([made_up(number, 2.0) for number in range(6)])
    found = session.transcribe(long)
    ends = [one.end for one in found.segments]
    assert ends == sorted(ends)
    assert ends[-1] > long.size / RATE - tiny.SOUND_SECONDS
    assert ends[-1] <= round(long.size / RATE, 3)
    pieces = "".join(one.text for one in found.segments)
    assert found.text.replace(" ", "") == pieces.replace(" ", "")


@pytest.mark.parametrize(
    "given",
    [wav(SOUND), wav(SOUND, channels=2), wav(SOUND, width=3), wav(SOUND, rate=8000)[:20_044]],
    ids=["mono", "stereo", "24 bits", "8 kHz"],
)  # fmt: skip
def test_wav_files_of_all_kinds_are_heard(session: Session, given: bytes) -> None:
    if len(given) == 20_044:  # its header says more than there is
        given = wav(SOUND[:10_000], rate=8000)
    found = session.transcribe(given)
    assert found.language in ("en", "de")


def test_stereo_and_24_bits_are_heard_as_mono_and_16_are(session: Session) -> None:
    texts = {session.transcribe(wav(SOUND, **kind)).text  # type: ignore[arg-type]
             for kind in ({}, {"channels": 2}, {"width": 3})}  # fmt: skip
    assert len(texts) == 1


def test_samples_at_another_rate_are_resampled(session: Session) -> None:
    slow = session.transcribe(SOUND[::2].copy(), sampling_rate=8000)
    assert slow.segments[-1].end == pytest.approx(SOUND.size / RATE, abs=0.01)


@pytest.mark.parametrize("samples", [0, 100_000], ids=["nothing", "silence"])
def test_nothing_and_silence_have_no_words(session: Session, samples: int) -> None:
    found = session.transcribe(np.zeros(samples, np.float32))
    assert (found.text, found.language, found.segments) == ("", None, ())
    assert session.transcribe(wav(np.zeros(samples, np.float32))).text == ""


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (np.full(999, np.nan, np.float32), BadInputError), (b"RIFF", BadInputError),
        (b"ID3 an MP3", BadInputError), (SOUND.astype(np.float64), BadInputError),
        (SOUND[:, None], BadInputError), ("no/such.wav", BadInputError), (3.0, UsageError),
    ],
    ids=["NaN", "cut off", "mp3", "float64", "2-D", "no file", "a number"],
)  # fmt: skip
def test_what_is_no_sound_is_refused(session: Session, given: Any, error: type) -> None:
    with pytest.raises(error):
        session.transcribe(given)


def test_a_rate_beside_a_file_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="the file says its own"):
        session.transcribe(wav(SOUND), sampling_rate=8000)


def test_the_golden_sounds_are_heard_again(session: Session) -> None:
    results = session.self_test()
    assert len(results) == 3
    assert all(one.passed for one in results)


def test_the_command_line_prints_the_transcript(
    sealed: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], session: Session
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(SOUND))
    assert main(sealed, [str(tmp_path / "a.wav"), "--language", "en"]) == 0
    text = session.transcribe(tmp_path / "a.wav", language="en").text
    assert capsysbinary.readouterr().out.decode() == text + "\n"
    assert main(sealed, [str(tmp_path / "a.wav"), "--timestamps"]) == 0
    assert b" - " in capsysbinary.readouterr().out
    assert main(sealed, [str(tmp_path / "no.wav")]) == 5


def test_a_manifest_with_a_token_beyond_the_logits_is_refused(sealed: Path) -> None:
    with load(sealed, threads=1) as one:
        data = json.loads(json.dumps(dict(one.info.data["speech"])))
        object.__setattr__(
            one.info, "speech", type(one.info.speech).from_manifest(data | {"suppress": [9999]})  # type: ignore[union-attr]
        )
        with pytest.raises(BadInputError, match="9999"):
            one.transcribe(SOUND)


def test_a_model_of_english_alone_is_not_asked_for_a_language(tmp_path: Path) -> None:
    found = speech_tokens(opened(tiny.whisper(tmp_path / "m", english=True)))
    assert (found.languages, found.tasks) == ({}, {})
    assert found.beginning(None, "transcribe", timed=False) == [found.no_timestamps_id]


def test_what_generation_config_leaves_out_is_read_from_the_tokens_names(tmp_path: Path) -> None:
    folder = tiny.whisper(tmp_path / "m")
    whole = speech_tokens(opened(folder))
    file = folder / "generation_config.json"
    table = json.loads(file.read_text())
    for key in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id"):
        del table[key]
    file.write_text(json.dumps(table))
    assert speech_tokens(opened(folder)) == whole


def test_whether_it_is_multilingual_must_be_said(tmp_path: Path) -> None:
    folder = tiny.whisper(tmp_path / "m")
    (folder / "generation_config.json").unlink()
    with pytest.raises(BadInputError, match="is_multilingual"):
        speech_tokens(opened(folder))


def test_a_front_end_of_another_size_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = tiny.whisper(tmp_path / "m")
    file = folder / "preprocessor_config.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps(table | {"feature_size": 128}))
    with pytest.raises(BadInputError, match="128 mel filters"):
        opened(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "smooth"])
def test_plan_refuses_calibrated_methods(model: Model, tmp_path: Path, method: str) -> None:
    asked = Request(
        str(model.folder), ("cpu",), tmp_path, settings=(f"quantize.method={method}",)
    )
    with pytest.raises(UnsupportedError, match=r"quantize.method=rtn") as error:
        plan(asked)
    assert error.value.exit_code == 3


def test_plan_refuses_llama_cpp_and_says_what_there_is(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="cpu") as error:
        plan(Request(str(model.folder), ("gguf",), tmp_path))
    assert error.value.exit_code == 3
