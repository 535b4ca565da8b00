"""The C++ runner compiled for this machine against installed engines, beside the Python runtime."""
from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgecompile import shims
from edgecompile.emulate.kits import KITS
from edgecompile.emulate.runner import FLAGS, SOURCES
from edgecompile.errors import BadInputError, UsageError
from edgecompile.runtime.worker_client import Worker
from tests.runtime.makers import make_bundle

pytestmark = [
    pytest.mark.slow,  # some 10 s of compiling
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here"),
]
IDS = [5, 3, 9, 4, 7, 11, 2]


class RunnerWorker(Worker):
    """The runner in place of the Python worker."""

    def __init__(self, runner: Path, *arguments: str) -> None:
        self._start([str(runner), *arguments])


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner of llama.cpp, whose Python package brings libraries and headers."""
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    assert package.origin is not None
    site = Path(package.origin).parent.parent
    libraries, program = site / "llama_cpp" / "lib", tmp_path_factory.mktemp("runner") / "runner"
    files = [str(shims.folder("cpp") / name) for name in (*SOURCES, *KITS["llama_cpp"].sources)]
    flags = [flag.format(lib=libraries, include="") for flag in KITS["llama_cpp"].flags]
    command = ["g++", *FLAGS, f"-isystem{site / 'include'}", "-o", str(program), *files, *flags]
    done = subprocess.run([*command, f"-Wl,-rpath,{libraries}"], capture_output=True, text=True)
    assert not done.stderr, done.stderr  # no warnings either
    return program


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "decoder", "llama-decoder")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "encoder", "llama-encoder")


@pytest.fixture
def both(runner: Path, decoder: Path) -> Iterator[tuple[Worker, RunnerWorker]]:
    with Worker(decoder, threads=1) as python, RunnerWorker(runner, str(decoder)) as cpp:
        yield python, cpp


def whole(worker: Worker, ids: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.array(chunk) for chunk in worker.logits(ids)])


def test_logits_are_those_of_the_python_runtime(both: tuple[Worker, RunnerWorker]) -> None:
    python, cpp = both
    np.testing.assert_array_equal(whole(python, IDS), whole(cpp, IDS))


def test_a_second_text_starts_with_an_empty_past(both: tuple[Worker, RunnerWorker]) -> None:
    _, cpp = both
    first = whole(cpp, IDS)
    whole(cpp, IDS[::-1])
    np.testing.assert_array_equal(whole(cpp, IDS), first)


def test_greedy_tokens_are_those_of_the_python_runtime(both: tuple[Worker, RunnerWorker]) -> None:
    python, cpp = both
    assert cpp.generate_timed(IDS, 12)["tokens"] == python.generate_timed(IDS, 12)["tokens"]
    assert cpp.generate_timed(IDS, 0)["tokens"] == []


def test_vectors_are_those_of_the_python_runtime(runner: Path, encoder: Path) -> None:
    with Worker(encoder, threads=1) as python, RunnerWorker(runner, str(encoder)) as cpp:
        expected = [python.embed_ids([row])[0] for row in (IDS, IDS[:2])]
        np.testing.assert_allclose(cpp.embed_ids([IDS, IDS[:2]]), expected, atol=1e-6)
        raw = cpp.embed_ids([IDS], normalize=False)
        np.testing.assert_allclose(raw, python.embed_ids([IDS], normalize=False), atol=1e-5)


def test_it_says_what_it_runs(both: tuple[Worker, RunnerWorker]) -> None:
    _, cpp = both
    hello = cpp.hello()
    assert hello["engine"] == "llama_cpp"
    assert hello["task"] == "text-generation"
    assert hello["versions"]["llama_cpp"].startswith("ggml ")
    assert cpp.peak_memory() is not None


@pytest.mark.parametrize("ids", [[], [-1], [1] * 10_000])
def test_ids_that_cannot_be_are_refused_and_it_goes_on(
    both: tuple[Worker, RunnerWorker], ids: list[int]
) -> None:
    _, cpp = both
    with pytest.raises(UsageError):
        cpp.generate_timed(ids, 4)
    assert len(cpp.generate_timed(IDS, 4)["tokens"]) == 4


def test_an_operation_of_another_task_is_refused(both: tuple[Worker, RunnerWorker]) -> None:
    _, cpp = both
    with pytest.raises(UsageError, match=r"task text-generation; expected embedding"):
        cpp.embed_ids([IDS])


def test_texts_are_refused_for_want_of_a_tokenizer(both: tuple[Worker, RunnerWorker]) -> None:
    _, cpp = both
    with pytest.raises(UsageError, match=r"op: tokenize; expected hello"):
        cpp.tokenize(["text"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=99), r"format 99"),
        (lambda m: m["engine"].update(name="onnxruntime"), r"engine onnxruntime; expected llama"),
        (lambda m: m["engine"].update(file="model/none.gguf"), r"could not open it"),
        (lambda m: m["engine"].update(file="../model.gguf"), r"one inside the bundle"),
        (lambda m: m["engine"].update(file="/etc/passwd"), r"one inside the bundle"),
        (lambda m: m["model"].pop("task"), r"model\.task"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    runner: Path, decoder: Path, tmp_path: Path, change: object, message: str
) -> None:
    copy = shutil.copytree(decoder, tmp_path / "copy")
    table = json.loads((copy / "manifest.json").read_text())
    change(table)  # type: ignore[operator]
    (copy / "manifest.json").write_text(json.dumps(table))
    with pytest.raises((BadInputError, UsageError), match=message):
        RunnerWorker(runner, str(copy))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"format": 1', "[1,]", '{"a": 1, "a": 2}', '"\\ud800"', '"\\ud83d\\u0041"',
        "[" * 1000, "1e999",
    ],
)
def test_json_that_is_none_is_refused(runner: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BadInputError, match=r"manifest\.json"):
        RunnerWorker(runner, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["--what"], 2), (["x", "--threads", "0"], 2), (["x"], 5)]
)
def test_exit_codes_are_those_of_the_command_line(
    runner: Path, arguments: list[str], code: int
) -> None:
    done = subprocess.run([runner, *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == code


@pytest.mark.parametrize(
    "request_line",
    [b'{"op": "logits"}\n', b'{"op": 5}\n', b'{"op": "embed", "ids": [["x"]]}\n', b"{}\n"],
)
def test_a_request_that_lacks_something_is_answered_with_an_error(
    runner: Path, decoder: Path, request_line: bytes
) -> None:
    command = [str(runner), str(decoder)]
    done = subprocess.run(command, input=request_line, capture_output=True, check=True)
    hello, reply = (json.loads(line) for line in done.stdout.splitlines())
    assert hello["ok"]
    assert not reply["ok"]
    assert reply["error"]["class"] in ("UsageError", "BadInputError")


def golden(bundle: Path, to: Path, change: float) -> Path:
    """A copy with the answers that it gives now as golden inputs; `change` is added to each."""
    copy = Path(shutil.copytree(bundle, to))
    with Worker(bundle, threads=1) as worker:
        cases = worker.observe()
    for case in cases:
        for step in case["steps"]:
            step["log_probabilities"] = [x + change for x in step["log_probabilities"]]
    table = {"format": 1, "tolerance": 1e-4, "cases": cases}
    (copy / "golden.json").write_text(json.dumps(table))
    manifest = json.loads((copy / "manifest.json").read_text()) | {"golden": "golden.json"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_the_self_test_passes_on_the_answers_that_shipped(
    runner: Path, decoder: Path, tmp_path: Path
) -> None:
    bundle = golden(decoder, tmp_path / "copy", 0.0)
    command = [str(runner), str(bundle), "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("pass ") == 3
    with RunnerWorker(runner, str(bundle)) as worker:
        assert all(one["passed"] for one in worker.self_test())


def test_a_wrong_golden_input_fails_the_self_test_with_exit_code_6(
    runner: Path, decoder: Path, tmp_path: Path
) -> None:
    bundle = golden(decoder, tmp_path / "copy", -0.5)
    command = [str(runner), str(bundle), "--self-test"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 6
    assert "FAIL" in done.stdout
