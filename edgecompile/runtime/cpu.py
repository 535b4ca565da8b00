"""What the processor can do, where an engine does not find out well enough by itself."""
from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether u8 x s8 products are exact: by the flags on x86-64 Linux, True elsewhere but on x86.

    ONNX Runtime takes some processors with VNNI for ones without, so it is not asked.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)
