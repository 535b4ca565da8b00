"""VNNI is read from the processor's flags: without it, 8-bit products must be the exact ones."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgecompile.runtime.cpu import has_vnni

X86 = platform.machine().lower() in ("x86_64", "amd64")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f", False), ("avx2 avx512_vnni", True), ("avx2 avx_vnni", True)],
)
@pytest.mark.skipif(not X86, reason="flags of x86-64")
def test_vnni_is_one_of_the_flags(tmp_path: Path, flags: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert has_vnni(file) is expected


@pytest.mark.skipif(not X86, reason="flags of x86-64")
def test_without_flags_none_is_assumed(tmp_path: Path) -> None:
    assert not has_vnni(tmp_path / "absent")
