"""Finished stages are whole or not there, whoever dies when."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgecompile import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))


def write(folder: Path) -> None:
    (folder / "a.txt").write_text("whole")


def test_a_finished_stage_is_found_again() -> None:
    first, reused_first = cache.stage("load", "k1", write)
    second, reused = cache.stage("load", "k1", write)
    assert (first, reused_first, reused) == (second, False, True)


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cache.stage("load", "k2", fail)
    assert list((tmp_path / "cache" / "stages").iterdir()) == []


def test_two_threads_that_make_the_same_stage_agree() -> None:
    found: list[Path] = []
    barrier = threading.Barrier(2)

    def work(folder: Path) -> None:
        barrier.wait(10)
        write(folder)

    threads = [
        threading.Thread(target=lambda: found.append(cache.stage("load", "k3", work)[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert (found[0] / "a.txt").read_text() == "whole"


def test_what_a_killed_process_left_is_removed_and_never_reused(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom edgecompile import cache\n"
        "def work(folder):\n"
        "    (folder / 'half').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.stage('load', 'k4', work)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ))
    stages = tmp_path / "cache" / "stages"
    assert child.returncode == -signal.SIGKILL
    assert [path.name.startswith(".load.staging-") for path in stages.iterdir()] == [True]
    folder, reused = cache.stage("load", "k4", write)
    assert (reused, [path.name for path in folder.iterdir()]) == (False, ["a.txt"])
    assert [path for path in stages.iterdir() if path.name.startswith(".")] == []


def test_a_living_process_keeps_its_staging_folder(tmp_path: Path) -> None:
    with cache.private_folder(tmp_path, "load") as staging:
        assert cache.remove_abandoned(tmp_path) == 0
        assert staging.is_dir()


def test_a_key_changes_with_options_and_modules() -> None:
    keys = {
        cache.key("s", modules=(), bits=4), cache.key("s", modules=(), bits=8),
        cache.key("s", modules=("edgecompile.cache",), bits=4), cache.key("t", modules=(), bits=4),
    }  # fmt: skip
    assert len(keys) == 4


def test_prune_removes_what_was_used_longest_ago_first() -> None:
    for index, name in enumerate(("old", "new")):
        folder, _ = cache.stage("load", name, lambda f: (f / "a").write_bytes(b"x" * 1000) and None)
        os.utime(folder, (index, index))
    assert [path.name for path in cache.prune(1500)] == ["load-old"]
