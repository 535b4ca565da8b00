"""What the processor can do, where an engine does not find out well enough by itself."""
from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

LEVELS = {  # flags of /proc/cpuinfo that a level has beyond x86-64 itself (x86-64 psABI, table 3.1)
    "x86-64-v3": (
        "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", "avx", "avx2", "bmi1",
        "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
    ),
}  # fmt: skip


def missing_for(level: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Flags of a level that this processor lacks; of levels without a list, nothing is known."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return [flag for flag in LEVELS.get(level, ()) if flag not in flags]


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
