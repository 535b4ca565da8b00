"""What a program on the emulated processor sees: its C library, and a /proc/cpuinfo that fits."""
from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Bits of AT_HWCAP and AT_HWCAP2 in their order, as Linux spells them (arch/arm64/kernel/cpuinfo.c).
HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm "
    "svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres mte3 sme"
)


@dataclass(frozen=True)
class Processor:
    """What the emulated processor says of itself; midr is its identification register."""

    hwcap: int
    hwcap2: int
    midr: int

    @classmethod
    def parse(cls, text: str) -> Processor:
        """Of the three hexadecimal numbers that shims/cpp/processor.cpp prints."""
        return cls(*(int(word, 16) for word in text.split()))

    @property
    def features(self) -> list[str]:
        """Names as in /proc/cpuinfo."""
        return [*_named(HWCAP, self.hwcap), *_named(HWCAP2, self.hwcap2)]

    def cpuinfo(self, cores: int) -> str:
        """The text of /proc/cpuinfo: engines choose kernels by its Features and its part."""
        midr = self.midr
        fields = {
            "BogoMIPS": "100.00",
            "Features": " ".join(self.features),
            "CPU implementer": f"0x{midr >> 24 & 0xFF:02x}",
            "CPU architecture": "8",
            "CPU variant": f"0x{midr >> 20 & 0xF:x}",
            "CPU part": f"0x{midr >> 4 & 0xFFF:03x}",
            "CPU revision": f"{midr & 0xF}",
        }
        lines = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
        return "".join(f"processor\t: {core}\n{lines}\n" for core in range(cores))


def _named(names: str, bits: int) -> Iterator[str]:
    return (name for at, name in enumerate(names.split()) if bits >> at & 1)


def write_sysroot(folder: Path, libraries: Path, processor: Processor) -> None:
    """Fill an empty folder for qemu's -L: lib (a link to the system's) and proc/cpuinfo."""
    (folder / "lib").symlink_to(libraries)
    (folder / "proc").mkdir()
    cores = os.cpu_count() or 1  # what /sys, which is not emulated, will say as well
    (folder / "proc" / "cpuinfo").write_text(processor.cpuinfo(cores))
