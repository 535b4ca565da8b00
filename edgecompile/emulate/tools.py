"""qemu-aarch64 and the cross compiler of the system: found, or said how to get them."""
from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgecompile.errors import EdgecompileError, MissingLibraryError

QEMU = "qemu-aarch64"
COMPILER = "aarch64-linux-gnu-g++"
PACKAGES = {
    QEMU: "apt-get install qemu-user",
    COMPILER: "apt-get install g++-aarch64-linux-gnu",
    "cmake": "apt-get install cmake",
    "ninja": "apt-get install ninja-build",
    "npm": "apt-get install npm",
}
LAST_LINES = 12  # of what a failed tool said


@dataclass(frozen=True)
class Tools:
    """Paths of qemu and the compiler; `libraries` is the target's libc and libstdc++."""

    qemu: str
    compiler: str
    libraries: Path

    @property
    def qemu_version(self) -> str:
        """As `7.2.22`."""
        return _version(self.qemu, "--version")

    @property
    def compiler_version(self) -> str:
        """As `12.2.0`."""
        return _version(self.compiler, "-dumpfullversion")


def find_tools() -> Tools:
    """What running a bundle on another processor needs; all that is missing is named at once."""
    need(QEMU, COMPILER)
    libc = Path(run([COMPILER, "-print-file-name=libc.so.6"], "the cross compiler").strip())
    if not libc.is_absolute() or not libc.exists():
        raise MissingLibraryError(
            "libc for arm64", f"{COMPILER} knows none ({libc})", "libc.so.6",
            "apt-get install libc6-dev-arm64-cross libstdc++6-arm64-cross",
        )  # fmt: skip
    return Tools(str(shutil.which(QEMU)), str(shutil.which(COMPILER)), libc.resolve().parent)


def need(*programs: str) -> None:
    """Refuse with the lines that bring the programs that are not here (exit 4)."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        ways = "; ".join(dict.fromkeys(PACKAGES[name] for name in missing))
        raise MissingLibraryError(", ".join(missing), "not installed", way_out=ways)


def run(command: list[str], what: str, folder: Path | None = None) -> str:
    """Standard output of a tool; one that fails is an EdgecompileError with its last lines."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:]
        raise EdgecompileError(what, f"exit status {done.returncode}: " + "\n".join(lines), "0")
    return done.stdout


def _version(program: str, option: str) -> str:
    found = re.search(r"\d+(\.\d+)+", run([program, option], program))
    return found.group() if found else "unknown"
