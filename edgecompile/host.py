"""What this machine offers: processor, cores and memory that this process may use, disk.

Standard library only. Linux is read from /proc and /sys, cgroup limits included; macOS and Windows
give what the standard library knows, and empty or whole-machine values for the rest.
"""
from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MACHINES = {"aarch64": "arm64", "amd64": "x86_64"}

# What each level needs beyond the one before (x86-64 psABI, table 3.1), in the spelling of
# /proc/cpuinfo: pni is SSE3, abm holds LZCNT.
X86_LEVELS = {
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
# Extensions that choose other kernels in the engines, and so may change a result's last bits.
X86_EXTRAS = {
    "avx_vnni": "avxvnni",
    "avx512_vnni": "vnni",
    "avx512_bf16": "bf16",
    "avx512_fp16": "fp16",
    "amx_int8": "amx",
}
ARM_EXTRAS = {"asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve"}

MIB = 1 << 20


@dataclass(frozen=True)
class Host:
    """This machine as this process sees it; sizes in MiB, 0 where unknown."""

    system: str  # Linux, Darwin, Windows
    machine: str  # x86_64, aarch64, arm64, AMD64
    cpu: str  # the model's name
    level: str  # x86-64-v4+vnni, arm64+dotprod+i8mm: kernels differ across, not within
    cores: int  # physical cores that affinity and cgroup quota leave
    memory_mib: int  # the machine's, or the cgroup's limit where that is lower
    available_mib: int  # free or reclaimable within that


def host() -> Host:
    """Look at this machine."""
    system, machine = platform.system(), platform.machine()
    return Host(system, machine, cpu_name(), cpu_level(), usable_cores(), *memory_mib())


def cpu_name() -> str:
    """The processor's name, for example `Intel(R) Xeon(R) Processor @ 2.50GHz`."""
    for key in ("model name", "Model", "Hardware"):
        if name := _cpuinfo().get(key, ""):
            return name
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def cpu_level() -> str:
    """Feature level with the extensions that matter here: `x86-64-v4+vnni`, `arm64+dotprod`.

    Without /proc/cpuinfo only the architecture is known, and only that is said.
    """
    info = _cpuinfo()
    if platform.machine().lower() in ("aarch64", "arm64"):
        return _with_extras("arm64", ARM_EXTRAS, set(info.get("Features", "").split()))
    if platform.machine().lower() in ("x86_64", "amd64"):
        flags = set(info.get("flags", "").split())
        level = "x86-64"
        for name, needed in X86_LEVELS.items():
            if not needed <= flags:
                break
            level = name
        return _with_extras(level, X86_EXTRAS, flags)
    return platform.machine()


def _with_extras(level: str, extras: dict[str, str], flags: set[str]) -> str:
    return "+".join([level, *(short for flag, short in extras.items() if flag in flags)])


def usable_cores() -> int:
    """Physical cores this process may keep busy: affinity, then the cgroup's quota; at least 1."""
    cores = _physical_cores()
    quotas = [quota for folder in _cgroup_folders() if (quota := _cpu_quota(folder)) > 0]
    return max(1, min([cores, *(int(quota) for quota in quotas)]))


def let_threads_sleep() -> None:
    """OpenMP's threads sleep while they wait: spinning, they are very slow where cores are shared.

    For commands that train and ask no engine; call it before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _physical_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        return len({_core_of(cpu) for cpu in allowed})
    if platform.system() == "Darwin":
        return int(_sysctl("hw.physicalcpu") or os.cpu_count() or 1)
    return os.cpu_count() or 1


def _core_of(cpu: int) -> tuple[str, str]:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    package, core = _read(topology / "physical_package_id"), _read(topology / "core_id")
    return (package, core) if core else ("", f"cpu{cpu}")


def memory_mib() -> tuple[int, int]:
    """(total, available) in MiB; a cgroup's limit and use count where they are lower."""
    total, available = _machine_memory()
    for folder in _cgroup_folders():
        limit, used = _cgroup_memory(folder)
        if 0 < limit < total or (limit and not total):
            total = limit
        if limit:
            available = min(available or limit, max(0, limit - used))
    return total // MIB, available // MIB


def _machine_memory() -> tuple[int, int]:
    fields = dict(line.partition(":")[::2] for line in _read(Path("/proc/meminfo")).splitlines())
    if "MemTotal" in fields:
        total, available = (
            int(fields.get(key, "0 kB").split()[0]) * 1024 for key in ("MemTotal", "MemAvailable")
        )
        return total, available
    if platform.system() == "Darwin":
        total = int(_sysctl("hw.memsize") or 0)
        return total, total // 2  # macOS compresses and caches: half is what a build can count on
    return _windows_memory()


def _windows_memory() -> tuple[int, int]:
    kernel = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    if kernel is None:
        return 0, 0
    status = (ctypes.c_uint64 * 8)()  # MEMORYSTATUSEX: length and load share the first 8 bytes
    ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
    return (int(status[1]), int(status[2])) if kernel.GlobalMemoryStatusEx(status) else (0, 0)


def disk_free_mib(path: Path) -> int:
    """MiB free where `path` is, or would be made."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // MIB


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty elsewhere than on Linux."""
    first = _read(Path("/proc/cpuinfo")).split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cgroup_folders() -> Iterator[Path]:
    """Folders of this process's cgroups, innermost first: version 2's, then version 1's."""
    root = Path("/sys/fs/cgroup")
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        names = [name for name in controllers.split(",") if name in ("memory", "cpu")]
        for base in [root] if not controllers else [root / name for name in names]:
            folder = base / path.lstrip("/")
            while folder != base:
                yield folder
                folder = folder.parent
            yield base


def _cpu_quota(folder: Path) -> float:
    """Processors that a cgroup may use, 0 without a quota."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else 0.0


def _cgroup_memory(folder: Path) -> tuple[int, int]:
    """(limit, used without what the kernel can drop) in bytes; (0, 0) without a limit."""
    limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
    if not limit:
        limit = _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.usage_in_bytes")
    if not (limit.isdigit() and used.isdigit()) or int(limit) >= 1 << 60:  # version 1's "none"
        return 0, 0
    statistics = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    return int(limit), max(0, int(used) - int(statistics.get("inactive_file", 0)))


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def platform_name() -> str:
    """System and processor as a target's `for` names them: linux-x86_64, macos-arm64, ..."""
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    machine = platform.machine().lower()
    return f"{system}-{MACHINES.get(machine, machine)}"
