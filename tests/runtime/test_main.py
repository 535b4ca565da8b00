from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecompile.runtime import load
from tests.runtime.conftest import Bundles
from tests.runtime.makers import WIDTH

NEEDED = ("numpy", "numpy.libs", "tokenizers", "jinja2", "markupsafe")
ENGINES = {
    "onnx-decoder": ("onnxruntime",),
    "llama-decoder": ("llama_cpp", "diskcache", "typing_extensions.py"),
}


def run(bundle: Path, *arguments: str, python: str = sys.executable) -> tuple[int, str, str]:
    command = [python, "-I", str(bundle / "runtime"), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def files(bundle: Path) -> set[Path]:
    """What lies in the bundle, but for the bytecode that Python caches of __main__.py itself."""
    inside = {path.relative_to(bundle) for path in bundle.rglob("*")}
    return {path for path in inside if path.parts[:2] != ("runtime", "__pycache__")}


def test_a_generating_bundle_prints_its_answer_to_a_users_turn(bundles: Bundles) -> None:
    bundle = bundles("onnx-decoder")
    before = files(bundle)
    code, out, err = run(bundle, "fox", "--max-new-tokens", "9")
    session = load(bundle)
    expected = "".join(session.generate([{"role": "user", "content": "fox"}], max_new_tokens=9))
    assert (code, out, err) == (0, expected + "\n", "")
    raw = run(bundle, "fox", "--raw", "--max-new-tokens", "9")[1]
    assert raw == "".join(session.generate("fox", max_new_tokens=9)) + "\n"
    assert files(bundle) == before


def test_bytecode_goes_to_the_users_cache_and_a_cache_is_not_needed(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles("classifier")
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path))
    first = run(bundle, "fox")
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert list((tmp_path / "bytecode" / digest).rglob("session.*.pyc"))
    monkeypatch.setenv("EDGECOMPILE_CACHE", "/dev/null/none")
    assert run(bundle, "fox") == first


def test_a_bundle_without_its_manifest_exits_5(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles("classifier"), tmp_path / "copy"))
    (bundle / "manifest.json").unlink()
    code, _, err = run(bundle, "fox")
    assert code == 5
    assert err.startswith("error: ")


def test_an_embedding_bundle_prints_one_json_object(bundles: Bundles) -> None:
    for kind in ("onnx-encoder", "llama-encoder"):
        code, out, err = run(bundles(kind), "fox")
        assert (code, err) == (0, "")
        assert len(json.loads(out)["embedding"]) == WIDTH


def test_a_classifying_bundle_prints_its_labels(bundles: Bundles) -> None:
    assert list(json.loads(run(bundles("classifier"), "fox é")[1])) == ["no", "maybe", "yes"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "no text"),
        (("fox", "--temperature", "-1"), 2, "temperature"),
        (("fox", "--threads", "0"), 2, "threads"),
        (("fox", "--verify", "sometimes"), 2, "sometimes"),
    ],
)
def test_a_wrong_command_exits_2_and_says_why(
    bundles: Bundles, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = run(bundles("onnx-decoder"), *arguments)
    assert found == code
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_a_damaged_bundle_exits_5(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles("onnx-encoder"), tmp_path / "copy"))
    (bundle / "model" / "model.onnx").write_bytes(b"")
    code, out, err = run(bundle, "fox")
    assert (code, out) == (5, "")
    assert "Traceback" not in err


def test_text_may_come_from_standard_input(bundles: Bundles) -> None:
    command = [sys.executable, "-I", str(bundles("classifier") / "runtime")]
    given = subprocess.run([*command, "fox é"], capture_output=True, check=True)
    piped = subprocess.run([*command, "-"], input="fox é".encode(), capture_output=True, check=True)
    assert piped.stdout == given.stdout
    wrong = subprocess.run([*command, "-"], input=b"\xff", capture_output=True, check=False)
    assert wrong.returncode == 2
    assert b"Traceback" not in wrong.stderr


def test_a_command_line_that_is_no_unicode_is_a_usage_error(bundles: Bundles) -> None:
    command = [sys.executable.encode(), b"-I", bytes(bundles("classifier") / "runtime"), b"\xff"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"valid Unicode" in done.stderr


def test_without_numpy_it_exits_4_and_says_what_to_install(
    bundles: Bundles, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    code, _, err = run(bundles("classifier"), "fox", python=python)
    assert code == 4
    assert err.startswith("error: numpy: not installed. To go on: pip install numpy")


def test_ctrl_c_exits_130_without_a_traceback(bundles: Bundles) -> None:
    ended = [interrupted(bundles("onnx-decoder"))]
    # A tiny model may be done before the signal arrives; then it is tried again.
    while ended[-1] == (0, b"") and len(ended) < 20:
        ended.append(interrupted(bundles("onnx-decoder")))
    assert ended[-1] == (130, b"error: interrupted.\n")


def interrupted(bundle: Path) -> tuple[int, bytes]:
    """Exit code and standard error of a generation that is interrupted at its first byte."""
    command = [sys.executable, "-I", str(bundle / "runtime"), "fox", "--max-new-tokens", "100000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Started in a shell's background, children would ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    return process.returncode, err


def test_a_reader_that_goes_away_is_no_error(bundles: Bundles) -> None:
    command = f"{sys.executable} -I {bundles('onnx-decoder') / 'runtime'} fox | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stderr == b""


@pytest.mark.parametrize("kind", sorted(ENGINES))
def test_a_bundle_runs_where_only_its_few_libraries_are_installed(
    kind: str, bundles: Bundles, tmp_path: Path
) -> None:
    import numpy as np

    installed = Path(np.__file__).parents[1]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for name in (*NEEDED, *ENGINES[kind]):
        if (installed / name).exists():
            (site / name).symlink_to(installed / name)
    python = str(tmp_path / "venv" / "bin" / "python")
    code, out, err = run(bundles(kind), "fox", "--max-new-tokens", "5", python=python)
    assert (code, err) == (0, "")
    assert out


def test_two_bundles_work_in_one_process(bundles: Bundles, tmp_path: Path) -> None:
    """Each with its own copy of the runtime, as two plug-ins of one app would bring them."""
    script = tmp_path / "app.py"
    script.write_text(TWO_BUNDLES)
    paths = [str(bundles("onnx-encoder")), str(bundles("llama-encoder"))]
    done = subprocess.run([sys.executable, "-I", str(script), *paths], capture_output=True)
    assert done.stderr.decode() == ""
    assert done.stdout.decode().split() == [str(WIDTH), str(WIDTH), "False"]


TWO_BUNDLES = """
import importlib.util, sys
from pathlib import Path

def runtime(bundle, name):
    folder = Path(bundle) / "runtime" / "edgecompile_runtime"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

sys.dont_write_bytecode = True
first, second = (runtime(path, f"plugin_{at}") for at, path in enumerate(sys.argv[1:]))
for module, path in zip((first, second), sys.argv[1:]):
    with module.load(path) as session:
        print(session.embed(["fox"]).shape[1])
print(first.Session is second.Session)
"""


def test_the_first_piece_is_printed_before_the_last_is_made(bundles: Bundles) -> None:
    command = [sys.executable, "-I", str(bundles("onnx-decoder") / "runtime"), "fox"]
    process = subprocess.Popen([*command, "--max-new-tokens", "1900"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    first = time.perf_counter()
    process.communicate(timeout=60)
    assert time.perf_counter() - first > 0.02
