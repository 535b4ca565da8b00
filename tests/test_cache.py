"""Finished stages are whole or not there, whoever dies when."""
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgecompile import cache
from edgecompile.errors import ResourceError


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

HOLDER = """
import os, signal, sys, time
from pathlib import Path
from edgecompile import cache

def work(folder):
    Path(sys.argv[1]).write_text("begun")
    for number in range(4):
        part = folder / f"part-{number}"
        if not part.exists():
            part.write_text(f"{number} by {sys.argv[2]}")
        if sys.argv[2] == "kill" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "slow":
            time.sleep(0.3)

print(*cache.resumable_stage("quantize", "k", work))
"""


def holder(tmp_path: Path, how: str) -> subprocess.Popen[str]:
    """A process that makes the stage; returns once it has begun."""
    begun = tmp_path / f"begun-{how}"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(begun), how], stdout=subprocess.PIPE, text=True
    )
    while not begun.exists() and child.poll() is None:
        time.sleep(0.01)
    return child


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_second_of_two_processes_waits_and_gets_the_same_folder(tmp_path: Path) -> None:
    first = holder(tmp_path, "slow")
    second = holder(tmp_path, "quick")  # does no work of its own
    said = [child.communicate(timeout=30)[0].split() for child in (first, second)]
    assert (said[0][0], said[0][1], said[1][1]) == (said[1][0], "False", "True")
    assert set(contents(Path(said[0][0])).values()) == {f"{n} by slow" for n in range(4)}
    assert not (tmp_path / "begun-quick").exists()
    assert [path.name for path in (tmp_path / "cache" / "stages").iterdir()] == ["quantize-k"]


def test_whole_parts_outlive_a_kill_and_the_next_run_goes_on(tmp_path: Path) -> None:
    child = holder(tmp_path, "kill")
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    said = holder(tmp_path, "quick").communicate(timeout=30)[0].split()
    assert said[1] == "False"
    parts = {f"part-{n}": f"{n} by {'kill' if n < 2 else 'quick'}" for n in range(4)}
    assert contents(Path(said[0])) == parts
    assert [path.name for path in (tmp_path / "cache" / "stages").iterdir()] == ["quantize-k"]


def test_an_error_keeps_the_parts_of_a_resumable_stage() -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cache.resumable_stage("quantize", "k", fail)
    seen: list[dict[str, str]] = []
    folder, reused = cache.resumable_stage("quantize", "k", lambda f: seen.append(contents(f)))
    assert (seen, reused) == ([{"a.txt": "whole"}], False)
    assert contents(folder) == {"a.txt": "whole"}


def test_a_full_disk_in_a_resumable_stage_is_exit_7() -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(ResourceError, match="the disk is full") as caught:
        cache.resumable_stage("quantize", "k", fail)
    assert caught.value.exit_code == 7


def test_prune_keeps_a_partial_stage_in_use_and_removes_one_that_nobody_holds(
    tmp_path: Path,
) -> None:
    child = holder(tmp_path, "slow")
    assert cache.prune(0) == []
    folder = Path(child.communicate(timeout=30)[0].split()[0])
    assert len(contents(folder)) == 4
    killed = folder.rename(folder.with_name("quantize-other"))  # out of the way of the next
    holder(tmp_path, "kill").communicate(timeout=30)
    assert {path.name for path in cache.prune(0)} == {killed.name, ".quantize-k.partial"}
    assert list((tmp_path / "cache" / "stages").iterdir()) == []


def test_a_build_that_waits_where_prune_removes_starts_anew(tmp_path: Path) -> None:
    """Pruning and building by turns, many times: never an error, never a torn stage."""
    stop = threading.Event()

    def prune() -> None:
        while not stop.is_set():
            cache.prune(0)

    def work(folder: Path) -> None:
        for number in range(3):
            (folder / f"part-{number}").write_text("x" * 1000)
            time.sleep(0.001)
        assert len(list(folder.iterdir())) == 3

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        for number in range(60):
            cache.resumable_stage("quantize", f"k{number}", work)
    finally:
        stop.set()
        pruner.join()
