"""A build that dies while it calibrates goes on at the last finished block, to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny

OPTIONS = ("method=gptq", "texts=24", "length=192", "sweeps=1", "embedding_bits=4", "overrides={}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return tiny.llama(folder, num_hidden_layers=6, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "text.jsonl"
    texts = (document for part in tiny.corpus(120).parts.values() for document in part)
    file.write_text("\n".join(json.dumps({"text": document.text}) for document in texts))
    return file


class Builds:
    """Builds of one model with one cache."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.model, self.data, self.folder = model, data, folder

    def start(self, out: str = "dist") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edgecompile", "-q", "build", str(self.model)]
        settings = [word for option in OPTIONS for word in ("--set", f"quantize.{option}")]
        more = ["--target", "gguf", "--data", str(self.data), "-o", str(self.folder / out)]
        return subprocess.Popen(
            [*command, *settings, *more, "--overwrite"], text=True, stderr=subprocess.PIPE,
            env={**os.environ, "EDGECOMPILE_CACHE": str(self.folder / "cache")},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def finish(self, out: str = "dist") -> dict[str, str]:
        child = self.start(out)
        _, errors = child.communicate(timeout=240)
        assert child.returncode in (0, 6), errors  # random weights may lose too much
        return self.tree(out)

    def tree(self, out: str = "dist") -> dict[str, str]:
        (bundle,) = [f for f in (self.folder / out).iterdir() if not f.name.endswith(".report")]
        return {
            file.relative_to(bundle).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(bundle.rglob("*")) if file.is_file()
        }  # fmt: skip

    def parts(self) -> list[Path]:
        return sorted((self.folder / "cache").glob("stages/.quantize*.partial/work/codes-*.saf*"))

    def until(self, parts: int, child: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 120
        while len(self.parts()) < parts and child.poll() is None and time.monotonic() < end:
            time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    return Builds(model, data, tmp_path_factory.mktemp("undisturbed")).finish()


@pytest.mark.slow
def test_killed_in_every_third_part_it_ends_with_the_same_bytes(
    model: Path, data: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    builds, kept = Builds(model, data, tmp_path), dict[Path, int]()
    for parts in (2, 5, 7):  # 7: between head and embedding
        child = builds.start()
        builds.until(parts, child)
        child.kill()
        child.communicate()
        for part, stamp in kept.items():
            assert part.stat().st_mtime_ns == stamp, "a finished part is not made again"
        kept = {part: part.stat().st_mtime_ns for part in builds.parts()}
    assert builds.finish() == undisturbed
    assert not [f for f in (tmp_path / "cache" / "stages").iterdir() if f.name.startswith(".")]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    model: Path, data: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    builds, moments = Builds(model, data, tmp_path), random.Random(1)
    for _ in range(4):
        child = builds.start()
        time.sleep(moments.uniform(2, 10))
        child.kill()
        child.communicate()
    assert builds.finish() == undisturbed


@pytest.mark.slow
def test_ctrl_c_while_it_calibrates_exits_130_and_keeps_the_parts(
    model: Path, data: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    builds = Builds(model, data, tmp_path)
    child = builds.start()
    builds.until(2, child)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert (child.returncode, "Traceback" in errors) == (130, False), errors
    assert len(builds.parts()) >= 2
    assert builds.finish() == undisturbed


@pytest.mark.slow
def test_two_builds_at_once_share_the_calibration_and_both_end_well(
    model: Path, data: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    builds = Builds(model, data, tmp_path)
    children = [builds.start(out) for out in ("one", "two")]
    for child in children:
        _, errors = child.communicate(timeout=240)
        assert child.returncode in (0, 6), errors
    assert builds.tree("one") == builds.tree("two") == undisturbed
