"""A build that dies, at any moment, leaves no torn bundle and is gone on with by the next one."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecompile.verify import verify_files
from tests import tiny

NAME = "tiny-llama-gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "EDGECOMPILE_CACHE": str(tmp_path / "cache"), "COLUMNS": "100"}


def start(model: Path, out: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgecompile", "-q", "build", str(model), "--target", "gguf"]
    return subprocess.Popen(
        [*command, "-o", str(out), "--overwrite"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Started in a shell's background, children would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def whole_or_absent(out: Path) -> None:
    """Whatever has a bundle's name must be a whole bundle."""
    for folder in out.glob(f"{NAME}*"):
        if not folder.name.endswith(".report"):
            verify_files(folder)


def kill_at(moments: list[float], model: Path, out: Path, environment: dict[str, str]) -> None:
    for moment in moments:
        child = start(model, out, environment)
        time.sleep(moment)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        whole_or_absent(out)
    last = start(model, out, environment)
    _, errors = last.communicate(timeout=300)
    assert last.returncode in (0, 6), errors
    whole_or_absent(out)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_kill_9_leaves_no_torn_bundle_and_the_next_run_ends_well(
    model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    kill_at([3.5, 6.5], model, tmp_path / "dist", environment)


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments(
    model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    moments = random.Random(0)
    kill_at([moments.uniform(0.5, 15) for _ in range(20)], model, tmp_path / "dist", environment)


def test_ctrl_c_says_so_and_exits_130(
    model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    child = start(model, tmp_path / "dist", environment)
    stages, end = tmp_path / "cache" / "stages", time.monotonic() + 60
    while not stages.is_dir() and time.monotonic() < end:
        time.sleep(0.02)  # until the first stage begins: most of the build is still to come
    os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=300)
    assert (child.returncode, "Traceback" in errors) == (130, False), errors
    assert not (tmp_path / "dist" / NAME).exists()
