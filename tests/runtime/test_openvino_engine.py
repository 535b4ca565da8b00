"""Bundles in OpenVINO, through the runtime that apps use."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import bundle, sources, target
from edgecompile.backends.openvino import Openvino
from edgecompile.reference import Reference
from edgecompile.runtime import Session, UsageError, load
from edgecompile.runtime.errors import BadInputError, UnsupportedError
from tests import tiny
from tests.backends.codes import rounded

PROMPT = [5, 6, 7, 8, 9, 10, 11]
ENCODED = [[2, 10, 11, 12, 13, 3], [2, 20, 3]]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def make(source: Path, folder: Path) -> Path:
    """A bundle without 8-bit activations, so that its answers are torch's."""
    model = rounded(sources.load(sources.resolve(str(source)), quiet), folder / "codes", 8)
    (folder / "engine").mkdir()
    export = Openvino(activations="exact").export(model, folder / "engine", quiet)
    device = target.find("cpu").on("openvino")
    contents = bundle.Contents(model, device, "", export, ())
    (folder / "bundle").mkdir()
    bundle.assemble(contents, folder / "engine", folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    return make(tiny.llama(folder / "m", max_position_embeddings=1024), folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    return make(tiny.bert(folder / "m"), folder)


@pytest.fixture(scope="module")
def decoder(llama: Path) -> Session:
    return load(llama, threads=1)


@pytest.fixture(scope="module")
def encoder(bert: Path) -> Session:
    return load(bert, threads=1)


def logits(session: Session, ids: list[int]) -> np.ndarray:
    return np.concatenate([chunk.copy() for chunk in session.logits(ids)])


def test_logits_are_those_of_torch_on_the_same_codes(decoder: Session, llama: Path) -> None:
    model = sources.load(sources.resolve(str(llama.parent / "m")), quiet)
    codes = rounded(model, llama.parent / "again", 8).quantized
    with Reference(model).quantized(codes) as reference:
        expected = reference.logits(PROMPT)
    assert logits(decoder, PROMPT) == pytest.approx(expected, abs=2e-2)  # the cache is float16


def test_greedy_generation_takes_the_likeliest_token_of_the_logits(decoder: Session) -> None:
    tokens = list(decoder.generate_ids(PROMPT, 12))
    rows = logits(decoder, PROMPT + tokens)
    assert tokens == rows[len(PROMPT) - 1 : -1].argmax(axis=1).tolist()


def test_a_long_past_is_kept_over_chunks_and_single_tokens(decoder: Session) -> None:
    ids = [3 + at % 200 for at in range(900)]
    rows = logits(decoder, ids)
    with decoder._need().decoder(len(ids)) as one:
        one.feed(ids[:550])
        for token in ids[550:560]:
            one.feed([token])
        last = one.feed(ids[560:]).copy()
    assert rows.shape[0] == 900
    assert np.abs(last - rows[-1]).max() < 1e-2 * np.abs(rows).max()


def test_a_lease_starts_with_an_empty_past(decoder: Session) -> None:
    first = logits(decoder, PROMPT)
    logits(decoder, [40, 41, 42])
    assert np.array_equal(logits(decoder, PROMPT), first)


def test_several_threads_generate_what_one_does(decoder: Session) -> None:
    prompts = [[5 + at, 6, 7 + at] for at in range(6)]
    alone = [list(decoder.generate_ids(prompt, 8)) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: list(decoder.generate_ids(p, 8)), prompts))
    assert together == alone


def test_several_threads_embed_what_one_does(encoder: Session) -> None:
    texts = [f"the quick fox number {at} jumps" for at in range(8)]
    alone = [encoder.embed([text])[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: encoder.embed([text])[0], texts))
    assert np.allclose(together, alone, atol=1e-6)


def test_a_padded_batch_gives_what_each_text_gives(encoder: Session) -> None:
    engine = encoder._need()
    together = engine.encode(ENCODED)
    alone = np.concatenate([engine.encode([ids]) for ids in ENCODED])
    assert np.allclose(together, alone, atol=1e-5)


def test_answers_stay_when_the_next_call_runs(encoder: Session) -> None:
    engine = encoder._need()
    first = engine.encode(ENCODED[:1])
    kept = first.copy()
    engine.encode(ENCODED[1:])
    assert np.array_equal(first, kept)


def test_raw_inputs_are_checked_by_name_and_type(encoder: Session) -> None:
    ids = np.array(ENCODED[:1])
    with pytest.raises(UsageError, match="attention_mask"):
        encoder.run(input_ids=ids)
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with pytest.raises(UsageError, match="float32"):
        encoder.run(**arrays, token_type_ids=np.zeros(ids.shape, np.float32))
    with pytest.raises(UsageError, match="for shapes"):
        encoder.run(**arrays, token_type_ids=np.zeros((1, 2, 3), np.int64))
    found = encoder.run(**arrays, token_type_ids=np.zeros_like(ids))
    assert found["sentence_embedding"].shape == (1, 64)


def test_a_token_that_the_model_does_not_know_is_refused(decoder: Session) -> None:
    with pytest.raises(UsageError, match="below"):
        list(decoder.generate_ids([5, 10**6], 1))


def test_a_closed_session_says_so(bert: Path) -> None:
    session = load(bert, threads=1)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.embed(["text"])


def changed(bundle_folder: Path, to: Path, **options: Any) -> Path:
    """The same bundle with other engine options; the manifest is not listed in itself."""
    for file in bundle_folder.rglob("*"):
        if file.is_file():
            place = to / file.relative_to(bundle_folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["engine"]["options"] |= options
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_a_precision_that_the_processor_lacks_is_refused(bert: Path, tmp_path: Path) -> None:
    import openvino

    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor computes in float16")
    with pytest.raises(UnsupportedError, match=r"precision=float32"):
        load(changed(bert, tmp_path / "b", precision="float16"))


@pytest.mark.parametrize(
    "options", [{"precision": "int3"}, {"kv_cache": "q4"}, {"dynamic_group": "many"}]
)
def test_options_that_mean_nothing_are_refused(
    bert: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(BadInputError, match=next(iter(options))):
        load(changed(bert, tmp_path / "b", **options))


def test_a_file_that_does_not_compile_is_bad_input(bert: Path, tmp_path: Path) -> None:
    broken = changed(bert, tmp_path / "b")
    (broken / "model" / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(BadInputError, match=r"openvino_model\.xml"):
        load(broken, verify="never")


def test_the_engine_prints_nothing_and_meets_no_torch(bert: Path) -> None:
    code = (
        "import sys; from edgecompile_runtime import load\n"
        f"with load({str(bert)!r}) as session: session.embed(['a text'])\n"
        "assert not {'torch', 'transformers', 'edgecompile'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(bert / "runtime")},
    )  # fmt: skip
    assert done.stdout + done.stderr == ""
