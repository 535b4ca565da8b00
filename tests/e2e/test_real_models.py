"""The main job on two real models: built, proven, the same codes in both engines, run."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile import bundle, verify
from edgecompile.build import BuildResult, build
from edgecompile.plan import Request, plan
from edgecompile.runtime import load
from edgecompile.runtime.manifest import read_manifest
from edgecompile.sources.gguf_file import read_gguf

FEWER = ("check.tokens=1024", "check.texts=128")  # a check's full size is for `make demo`
CALIBRATED = ("quantize.texts=8",)  # as is the whole calibration text


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def built(name: str, out: Path, settings: tuple[str, ...] = ()) -> dict[str, BuildResult]:
    request = Request(name, ("cpu", "gguf"), out, settings=(*FEWER, *settings))
    return {result.target: result for result in build(plan(request), quiet)}


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuildResult]:
    return built("smollm2-135m-instruct", tmp_path_factory.mktemp("smollm"), CALIBRATED)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuildResult]:
    return built("all-minilm-l6-v2", tmp_path_factory.mktemp("minilm"))


@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_a_text_generator_is_proven(smollm: dict[str, BuildResult], target: str) -> None:
    failed = [row for row in smollm[target].report.rows if row.verdict == "fail"]
    assert (smollm[target].report.verdict, failed) == ("pass", [])


@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_an_embedder_is_proven(minilm: dict[str, BuildResult], target: str) -> None:
    failed = [row for row in minilm[target].report.rows if row.verdict == "fail"]
    assert (minilm[target].report.verdict, failed) == ("pass", [])


def test_two_engines_hold_the_same_codes(smollm: dict[str, BuildResult]) -> None:
    found = verify.compare(smollm["cpu"].bundle, smollm["gguf"].bundle)
    assert (found.tensors, found.differences) == (211, ())


def test_one_altered_code_is_found_though_all_hashes_agree(
    smollm: dict[str, BuildResult], tmp_path: Path
) -> None:
    altered = shutil.copytree(smollm["gguf"].bundle, tmp_path / "altered")
    file = altered / "model" / "model.gguf"
    raw = bytearray(file.read_bytes())
    stored = next(t for t in read_gguf(file).tensors.values() if t.type.name == "Q4_0")
    raw[stored.offset + 2] ^= 1  # a block is a float16 scale, then codes
    file.write_bytes(raw)
    bundle.write_manifest(altered, dict(read_manifest(altered).data))
    verify.verify_files(altered)
    command = ["verify", "--same-weights", str(smollm["cpu"].bundle), str(altered)]
    run = subprocess.run(
        [sys.executable, "-m", "edgecompile", *command], capture_output=True, text=True, check=False
    )
    assert run.returncode == 6, run.stderr
    assert "1 codes differ" in run.stderr


@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_a_chat_is_answered_the_same_twice(smollm: dict[str, BuildResult], target: str) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with load(smollm[target].bundle) as session:
        texts = ["".join(session.generate(messages, max_new_tokens=24)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert "Paris" in texts[0]


@pytest.mark.parametrize("target", ["cpu", "gguf"])
def test_like_texts_are_nearer_than_unlike_ones(
    minilm: dict[str, BuildResult], target: str
) -> None:
    texts = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock fell by 3 %."]
    with load(minilm[target].bundle) as session:
        first, second, third = session.embed(texts)
    assert np.dot(first, second) > np.dot(first, third) + 0.3


def test_the_bundle_runs_by_itself_without_this_package(minilm: dict[str, BuildResult]) -> None:
    command = [sys.executable, "-I", str(minilm["cpu"].bundle / "runtime"), "a text"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(",") >= 383


@settings(max_examples=15, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_gives_a_vector_of_length_one(minilm: dict[str, BuildResult], text: str) -> None:
    with load(minilm["cpu"].bundle) as session:
        assert np.linalg.norm(session.embed([text])[0]) == pytest.approx(1, abs=1e-4)
