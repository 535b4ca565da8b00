from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecompile.runtime import BadInputError, UsageError, load
from edgecompile.runtime.manifest import CHUNK, read_manifest
from edgecompile.runtime.verify import check_digests, verify
from tests.runtime.makers import manifest, seal

Damaged = Callable[[str], Path]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A bundle whose one file has two chunks and a half."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(2 * CHUNK + CHUNK // 2))
    engine = {"name": "null", "file": "weights.bin"}
    return seal(folder, manifest("module", engine, tokenizer=None), runtime=False)


def flip(path: Path, at: int) -> None:
    """Change one bit and leave size and mtime as they were."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def check(bundle: Path, mode: str = "always") -> None:
    verify(bundle, read_manifest(bundle), mode, 2)


def test_an_untouched_bundle_passes(large: Path) -> None:
    check(large)


def test_a_flipped_bit_is_found_and_its_chunk_named(large: Path) -> None:
    flip(large / "weights.bin", CHUNK + 5)
    with pytest.raises(BadInputError, match=rf"weights\.bin chunk 1 \(bytes {CHUNK} to"):
        check(large)


def test_a_bundle_verified_once_is_not_hashed_again(large: Path, tmp_path: Path) -> None:
    check(large, "once")
    weights = large / "weights.bin"
    before = weights.stat()
    copy = tmp_path / "copy"
    shutil.copy(weights, copy)
    check(large, "once")
    assert weights.stat().st_mtime_ns == before.st_mtime_ns


def test_once_looks_again_when_a_file_changed_even_with_its_old_mtime(large: Path) -> None:
    check(large, "once")
    time.sleep(0.02)  # ctime has the kernel's tick for resolution
    flip(large / "weights.bin", 7)
    with pytest.raises(BadInputError, match="chunk 0"):
        check(large, "once")


def test_once_remembers_a_bundle_by_its_place(large: Path, tmp_path: Path) -> None:
    check(large, "once")
    other = Path(shutil.copytree(large, tmp_path / "other"))
    flip(other / "weights.bin", 7)
    with pytest.raises(BadInputError, match="chunk 0"):
        check(other, "once")


def test_a_cache_that_cannot_be_written_is_no_error(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(blocked))
    check(large, "once")
    flip(large / "weights.bin", 7)
    with pytest.raises(BadInputError, match="chunk 0"):
        check(large, "once")


def test_a_damaged_cache_is_no_error(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path))
    check(large, "once")
    (record,) = (tmp_path / "verified").iterdir()
    record.write_text("[1")
    check(large, "once")


def remove(bundle: Path) -> None:
    (bundle / "weights.bin").unlink()


def add(bundle: Path) -> None:
    (bundle / "more.bin").write_text("x")


def shorten(bundle: Path) -> None:
    os.truncate(bundle / "weights.bin", 10)


def link(bundle: Path) -> None:
    (bundle / "weights.bin").rename(bundle.parent / "elsewhere.bin")
    (bundle / "weights.bin").symlink_to(bundle.parent / "elsewhere.bin")


def link_folder(bundle: Path) -> None:
    (bundle / "more").symlink_to(bundle.parent)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove, "missing weights.bin"),
        (add, "unlisted more.bin"),
        (shorten, "10 bytes"),
        (link, "a link"),
        (link_folder, "a link"),
    ],
)
def test_a_changed_layout_is_refused(
    large: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(large)
    with pytest.raises(BadInputError, match=said):
        check(large)


def test_python_may_leave_bytecode_beside_the_runtime_only(damaged: Damaged) -> None:
    bundle = damaged("onnx-encoder")
    for folder in ("runtime/edgecompile_runtime/__pycache__", "model/__pycache__"):
        (bundle / folder).mkdir()
        (bundle / folder / "x.pyc").write_text("x")
    with pytest.raises(BadInputError, match=r"unlisted model/__pycache__/x\.pyc"):
        check(bundle)


def test_the_engine_never_sees_a_file_that_differs(damaged: Damaged) -> None:
    bundle = damaged("onnx-encoder")
    flip(bundle / "model" / "model.onnx", 400)
    with pytest.raises(BadInputError, match=r"model\.onnx chunk 0"):
        load(bundle)


def test_an_unknown_mode_is_a_usage_error(large: Path) -> None:
    with pytest.raises(UsageError, match="sometimes"):
        check(large, "sometimes")


def test_the_last_chunk_may_be_short_and_a_file_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    engine: dict[str, Any] = {"name": "null", "file": "empty"}
    seal(tmp_path, manifest("module", engine, tokenizer=None), runtime=False)
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert listed[0]["chunks"] == []
    check_digests(tmp_path, read_manifest(tmp_path).files, 4)
