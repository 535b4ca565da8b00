"""Names of a GGUF model in several files, as llama.cpp's gguf-split writes and finds them."""
from __future__ import annotations

import re
from pathlib import Path

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def bare(stem: str) -> str:
    """A file's name without `-00001-of-00003`."""
    found = _NAME.fullmatch(stem)
    return found["prefix"] if found else stem


def part(path: Path, number: int, count: int) -> Path | None:
    """The file of that part (from 0 on) beside `path`; None where `path` is not named as one."""
    found = _NAME.fullmatch(path.stem)
    if found is None or int(found["count"]) != count:
        return None
    return path.with_name(f"{found['prefix']}-{number + 1:05d}-of-{count:05d}{path.suffix}")
