from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from edgecompile.runtime import BadInputError, EdgecompileError, UsageError, load
from edgecompile.runtime.worker_client import Worker
from tests.runtime.conftest import Bundles
from tests.runtime.makers import WIDTH, seal


def test_a_worker_gives_what_a_session_in_this_process_gives(bundles: Bundles) -> None:
    path = bundles("onnx-decoder")
    ids = [5, 6, 7] * 100
    with Worker(path, threads=2) as worker, load(path, threads=2) as session:
        assert worker.hello()["task"] == "text-generation"
        assert worker.hello()["threads"] == 2
        assert worker.tokenize(["fox é"]) == session.tokenize(["fox é"])
        chunks = list(worker.logits(ids))
        assert [len(chunk) for chunk in chunks] == [128, 128, 44]
        here = np.concatenate([chunk.copy() for chunk in session.logits(ids)])
        assert np.array_equal(np.concatenate(chunks), here)
        timed = worker.generate_timed(ids[:9], 12)
        assert timed["tokens"] == list(session.generate_ids(ids[:9], 12))
        assert timed["first_token_ms"] > 0
        assert timed["tokens_per_second"] > 0


def test_prompts_and_refusals_of_them_go_both_ways(bundles: Bundles) -> None:
    turns = [{"role": "user", "content": "fox é"}]
    path = bundles("onnx-decoder")
    with Worker(path) as worker, load(path) as session:
        both, refused = worker.render(
            [{"messages": turns, "add_generation_prompt": False}, {"messages": [{}]}]
        )
        expected = session.render(turns, add_generation_prompt=False)
        assert both["text"] == expected
        assert both["ids"] == session.prompt_ids(turns, add_generation_prompt=False)
        assert refused["refused"].startswith("UsageError: message 0")


def test_a_consumer_may_stop_reading_logits_early(bundles: Bundles) -> None:
    with Worker(bundles("onnx-decoder")) as worker:
        for _ in worker.logits([5] * 400):
            break
        assert worker.tokenize(["fox"])


def test_arrays_texts_and_ids_go_both_ways(bundles: Bundles) -> None:
    with Worker(bundles("onnx-encoder")) as worker:
        vectors = worker.embed(["fox", "dog é 🙂"])
        assert vectors.shape == (2, WIDTH)
        assert np.array_equal(vectors, worker.embed_ids(worker.tokenize(["fox", "dog é 🙂"])))
        ids = np.array([[3, 4]])
        raw = worker.run(input_ids=ids, attention_mask=np.ones_like(ids))["result"]
        assert np.array_equal(raw, worker.embed_ids([[3, 4]]))
        assert worker.embed([]).shape == (0, WIDTH)
    with Worker(bundles("classifier")) as worker:
        assert list(worker.classify(["fox"])[0]) == ["no", "maybe", "yes"]


def test_an_error_crosses_the_pipe_as_itself_and_the_worker_goes_on(bundles: Bundles) -> None:
    with Worker(bundles("onnx-decoder")) as worker:
        with pytest.raises(UsageError, match="embedding"):
            worker.embed(["fox"])
        with pytest.raises(BadInputError, match="request logits"):
            worker._ask({"op": "logits"})
        with pytest.raises(UsageError, match="dance"):
            worker._ask({"op": "dance"})
        assert worker.tokenize(["fox"])


def test_a_bundle_that_does_not_open_is_the_workers_first_answer(
    bundles: Bundles, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="model"):
        Worker(_flipped(bundles, tmp_path))


def _flipped(bundles: Bundles, tmp_path: Path) -> Path:
    bundle = Path(shutil.copytree(bundles("onnx-encoder"), tmp_path / "copy"))
    model = bundle / "model" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[300] ^= 1
    model.write_bytes(data)
    return bundle


def test_a_crash_of_the_child_names_its_signal(bundles: Bundles) -> None:
    with Worker(bundles("onnx-encoder")) as worker:
        os.kill(worker.hello()["pid"], signal.SIGSEGV)
        with pytest.raises(EdgecompileError, match="SIGSEGV"):
            worker.tokenize(["fox"])


def test_a_child_that_never_starts_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(EdgecompileError, match=r"exit status 2.*can't (open|find)"):
        Worker(tmp_path)


def test_what_an_engine_prints_does_not_reach_the_replies(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles("onnx-encoder"), tmp_path / "copy"))
    opened = bundle / "runtime" / "edgecompile_runtime" / "opened.py"
    start = "start = time.perf_counter()"
    noisy = f'{start}; print("noise"); __import__("os").write(1, b"noise")'
    assert start in opened.read_text()
    opened.write_text(opened.read_text().replace(start, noisy))
    seal(bundle, json.loads((bundle / "manifest.json").read_text()))
    with Worker(bundle) as worker:
        assert worker.tokenize(["fox"])


def test_peak_memory_is_told_and_reset(bundles: Bundles) -> None:
    with Worker(bundles("onnx-decoder")) as worker:
        first = worker.peak_memory(reset=True)
        second = worker.peak_memory()
        assert first is not None
        assert second is not None
        assert 5 < second < first + 20 < 2000


def test_close_ends_the_child(bundles: Bundles) -> None:
    worker = Worker(bundles("onnx-encoder"))
    worker.close()
    worker.close()
    assert worker._child.returncode == 0
