"""Finished stages by content: a folder a stage, named by the SHA-256 of all that shaped it."""
from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from edgecompile.errors import ResourceError

# Libraries that can change a stage's bytes; an exporter's or engine's only for its own backend, so
# that what else is installed changes nothing.
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "peft", "gguf")
BACKEND_LIBRARIES = {
    "onnxruntime": ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-genai"),
    "executorch": ("executorch", "torchao", "coremltools"),
    "gguf": ("llama-cpp-python",),
    "openvino": ("openvino",),
}
LOCK = ".lock"
PARTIAL = ".partial"  # ends the name of a resumable stage's folder until it is whole


def folder() -> Path:
    """EDGECOMPILE_CACHE, else the user's cache folder."""
    named = os.environ.get("EDGECOMPILE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "edgecompile"


def library_versions(backend: str = "") -> dict[str, str]:
    """Versions of the installed LIBRARIES and the backend's, without local parts such as +cpu."""
    found = {}
    for name in (*LIBRARIES, *BACKEND_LIBRARIES.get(backend, ())):
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def key(stage: str, *, modules: tuple[str, ...], **inputs: Any) -> str:
    """SHA-256 over the stage, its inputs, its modules' sources and the library versions."""
    digest = hashlib.sha256(stage.encode())
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            digest.update(name.encode() + Path(spec.origin).read_bytes())
    versions = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", **library_versions()}
    digest.update(json.dumps([inputs, versions], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def finished(name: str, stage_key: str) -> Path | None:
    """The stage's folder if an earlier build finished it; it is then the last used."""
    final = folder() / "stages" / f"{name}-{stage_key}"
    if not final.is_dir():
        return None
    os.utime(final)
    return final


def stage(name: str, stage_key: str, work: Callable[[Path], None]) -> tuple[Path, bool]:
    """The finished stage's folder and whether it was there before; `work` fills an empty one.

    `work` writes to a private folder that gets its name only when it is whole, so a killed or
    failed stage is never reused, and two builds at once never meet.
    """
    done = finished(name, stage_key)
    if done is not None:
        return done, True
    final = folder() / "stages" / f"{name}-{stage_key}"
    final.parent.mkdir(parents=True, exist_ok=True)
    with private_folder(final.parent, name) as staging:
        work(staging)
        publish(staging, final)
    return final, False


def resumable_stage(
    name: str, stage_key: str, work: Callable[[Path], None]
) -> tuple[Path, bool]:
    """As `stage`, for long work that keeps whole parts: a killed one finds its folder again.

    Of two builds that want the same stage the second waits for the first.
    """
    final = folder() / "stages" / f"{name}-{stage_key}"
    if final.is_dir():
        return stage(name, stage_key, work)
    holder = final.parent / f".{final.name}{PARTIAL}"
    try:
        with _held(holder):
            reused = final.is_dir()
            if not reused:
                (holder / "work").mkdir(exist_ok=True)
                work(holder / "work")
                publish(holder / "work", final)
            shutil.rmtree(holder, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, final.parent) from error
    return final, reused


@contextmanager
def _held(holder: Path) -> Iterator[None]:
    """Inside, this process alone has the folder, which it made if need be."""
    with ExitStack() as held:
        while True:
            holder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # who had it finished, or pruned it: once more
                lock = held.enter_context((holder / LOCK).open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(lock.fileno()), (holder / LOCK).stat()):
                    break
        yield


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder that no other process touches, held by a lock and removed at the end.

    Folders of the same kind whose process is gone are removed first.
    """
    prefix = f".{name}.staging-"
    remove_abandoned(parent, prefix)
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=parent))
        with (new / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Named only once locked: what carries the name and is not locked was abandoned.
            holder = new.rename(parent / (prefix + new.name.rpartition("-")[2]))
            try:
                (holder / "work").mkdir()
                yield holder / "work"
            finally:
                shutil.rmtree(holder, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, parent) from error


def remove_abandoned(parent: Path, prefix: str = ".") -> int:
    """Remove staging folders whose process is gone; returns how many."""
    removed = 0
    for holder in parent.glob(f"{prefix}*"):
        lock_file = holder / LOCK
        if ".staging-" not in holder.name or not lock_file.is_file():
            continue
        try:
            with lock_file.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(holder, ignore_errors=True)
                removed += 1
        except OSError:
            continue  # its process lives
    return removed


def publish(staging: Path, final: Path) -> None:
    """Give a whole folder its final name; another process's equal result wins silently."""
    sync(staging)
    try:
        staging.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def sync(tree: Path) -> None:
    """Flush every file below `tree` to the disk, so that a name never outlives its bytes."""
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def disk_error(error: OSError, where: Path) -> Exception:
    """A full disk or quota as ResourceError (7), any other OSError as it is."""
    import errno

    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    free = shutil.disk_usage(where).free / 1e6
    return ResourceError(
        str(where), f"the disk is full ({free:.0f} MB free)",
        way_out="free space, or name another folder with -o or EDGECOMPILE_CACHE",
    )  # fmt: skip


def entries() -> list[tuple[Path, int, float]]:
    """Stages, finished or partial, as (folder, bytes, last used), oldest first."""
    found = []
    for path in (folder() / "stages").glob("*-*"):
        if path.name.endswith(PARTIAL) or not path.name.startswith("."):
            with suppress(FileNotFoundError):  # a build or another prune may move it meanwhile
                found.append((path, tree_bytes(path), path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry[2])


def prune(max_bytes: int) -> list[Path]:
    """Remove the stages used longest ago until the rest fits; returns what was removed."""
    kept = entries()
    total = sum(size for _, size, _ in kept)
    removed = []
    for path, size, _ in kept:
        if total <= max_bytes:
            break
        if _remove(path):
            removed.append(path)
            total -= size
    return removed


def _remove(path: Path) -> bool:
    """Remove a stage unless a running build holds it; a new one cannot begin on it meanwhile."""
    with ExitStack() as held:
        try:
            if path.name.endswith(PARTIAL):
                lock = held.enter_context((path / LOCK).open("r+"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass  # its build ended, or was killed before it had a lock
        except OSError:
            return False
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()


def tree_bytes(tree: Path) -> int:
    """Bytes of all files below a folder, links not followed."""
    return sum(f.stat().st_size for f in tree.rglob("*") if f.is_file() and not f.is_symlink())


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for child processes: offline, no telemetry."""
    return {
        **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false",
        **(extra or {}),
    }  # fmt: skip
