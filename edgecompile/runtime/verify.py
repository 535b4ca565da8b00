"""Is every byte of a bundle the one its manifest names? Asked before an engine opens a file."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from .errors import BadInputError, UsageError
from .manifest import CHUNK, NAME, FileEntry, Manifest

MODES = ("once", "always", "never")


def verify(bundle: Path, manifest: Manifest, mode: str, threads: int) -> None:
    """Check names, sizes and, unless `never` or already done `once`, SHA-256 of every file."""
    if mode not in MODES:
        raise UsageError("verify", repr(mode), " or ".join(MODES))
    if mode == "never":
        return
    found = check_layout(bundle, manifest)
    if mode == "once" and _remembered(bundle, manifest, found):
        return
    check_digests(bundle, manifest.files, threads)
    if mode == "once":
        _remember(bundle, manifest, found)


def check_layout(bundle: Path, manifest: Manifest) -> dict[str, os.stat_result]:
    """Status by path of the listed files; links, missing and extra files are refused."""
    found = dict(_walk(bundle, ""))
    found.pop(NAME, None)
    listed = {entry.path: entry for entry in manifest.files}
    if missing := sorted(listed.keys() - found.keys()):
        raise BadInputError(str(bundle), f"missing {', '.join(missing[:5])}", "every listed file")
    if extra := sorted(found.keys() - listed.keys()):
        raise BadInputError(str(bundle), f"unlisted {', '.join(extra[:5])}", "only listed files")
    for path, entry in listed.items():
        if found[path].st_size != entry.bytes:
            size = found[path].st_size
            raise BadInputError(str(bundle / path), f"{size} bytes", f"{entry.bytes}", _WAY_OUT)
    return found


_WAY_OUT = "copy the bundle again from where it was built"


def _walk(folder: Path, prefix: str) -> Iterable[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            path = prefix + entry.name
            if stat.S_ISREG(status.st_mode):
                # Windows' scandir leaves the inode out.
                yield path, status if status.st_ino else Path(entry.path).stat()
            elif not stat.S_ISDIR(status.st_mode):
                raise BadInputError(entry.path, "a link or device", "plain files and folders")
            elif not (entry.name == "__pycache__" and path.startswith("runtime/")):
                # Python writes bytecode beside the runtime when an app imports it from the bundle.
                yield from _walk(Path(entry.path), path + "/")


def check_digests(bundle: Path, files: Iterable[FileEntry], threads: int) -> None:
    """Hash all chunks in threads (hashlib releases the GIL); name the one that differs."""
    from concurrent.futures import ThreadPoolExecutor

    chunks = [
        (bundle / entry.path, index, digest, min(CHUNK, entry.bytes - index * CHUNK))
        for entry in files
        for index, digest in enumerate(entry.chunks)
    ]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for _ in pool.map(_check_chunk, *zip(*chunks, strict=True)) if chunks else ():
            pass


def _check_chunk(path: Path, index: int, expected: str, size: int) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(index * CHUNK)
        data = file.read(size)
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        where = f"{path} chunk {index} (bytes {index * CHUNK} to {index * CHUNK + size})"
        raise BadInputError(where, f"SHA-256 {digest}", expected, _WAY_OUT)


def cache_folder() -> Path:
    """Where verified bundles are remembered: EDGECOMPILE_CACHE, else the user's cache folder."""
    if own := os.environ.get("EDGECOMPILE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecompile"


def _record(manifest: Manifest) -> Path:
    return cache_folder() / "verified" / f"{manifest.digest}.json"


def _fingerprint(found: dict[str, os.stat_result]) -> dict[str, list[int]]:
    # ctime too: a program can set a file's mtime back, not its ctime.
    return {
        path: [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        for path, status in sorted(found.items())
    }


def _remembered(bundle: Path, manifest: Manifest, found: dict[str, os.stat_result]) -> bool:
    try:
        known = json.loads(_record(manifest).read_bytes())
        return bool(known[str(bundle.resolve())] == _fingerprint(found))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return False


def _remember(bundle: Path, manifest: Manifest, found: dict[str, os.stat_result]) -> None:
    """Best effort: a cache that cannot be written means hashing again next time."""
    with contextlib.suppress(OSError, RuntimeError):
        record = _record(manifest)
        record.parent.mkdir(parents=True, exist_ok=True)
        draft = record.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({str(bundle.resolve()): _fingerprint(found)}))
        draft.replace(record)
