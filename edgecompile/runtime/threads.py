"""How many threads an engine should use: the physical cores that this process may run on."""
from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """Physical cores within the affinity mask and the cgroup's CPU quota; at least 1."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)
    cores = {_core(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _core(cpu: int) -> str:
    """A name that hyper-threads of one core share; the CPU's own where the kernel tells nothing."""
    siblings = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _read(siblings) or str(cpu)


def _quota() -> int:
    """Whole CPUs that the cgroup (version 2 or 1) grants, rounded up; many when unlimited."""
    unlimited = 1 << 20
    for folder in _cgroup_folders():
        limit, _, period = _read(f"{folder}/cpu.max").partition(" ")
        limit = limit or _read(f"{folder}/cpu.cfs_quota_us")
        period = period or _read(f"{folder}/cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(period):
            unlimited = min(unlimited, -(-int(limit) // int(period)))
    return max(1, unlimited)


def _cgroup_folders() -> list[Path]:
    """This process's cgroup and all above it: each may set a quota."""
    folders = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")]
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = folders[1] if controllers else folders[0]
            own = root / path.lstrip("/")
            folders += [own, *(parent for parent in own.parents if root in parent.parents)]
    return folders


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
