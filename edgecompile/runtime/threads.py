"""How many threads an engine should use: the physical cores that this process really gets."""
from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

PROBE_BYTES, PROBE_ROUNDS = 1 << 19, 4  # about 5 ms on a processor without SHA instructions
# Threads of one product wait for the slowest: a core with less than half the speed of the fastest
# (a phone's small cores, or one that another process keeps busy) costs more than it brings.
SLOWEST = 0.5


def probed_cores() -> int:
    """Physical cores of about the fastest one's speed, found by hashing on all at once.

    Never above `physical_cores`; where a thread cannot be pinned (macOS, Windows) just that.
    """
    most = physical_cores()
    try:
        cpus = _one_cpu_a_core(os.sched_getaffinity(0))
    except AttributeError:
        return most
    times = _times(cpus)
    near = sum(seconds * SLOWEST <= min(times) for seconds in times)  # 0: none could be pinned
    return min(most, near) or most


def _times(cpus: Iterable[int]) -> list[float]:
    """Least seconds that each CPU took to hash PROBE_BYTES, with all of them at work."""
    found: list[float] = []
    workers = [threading.Thread(target=_hash_on, args=(cpu, found)) for cpu in cpus]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def _hash_on(cpu: int, found: list[float]) -> None:
    data, least = bytes(PROBE_BYTES), float("inf")
    try:
        os.sched_setaffinity(0, {cpu})  # of this thread alone, which ends here
    except OSError:  # taken from this process meanwhile
        return
    for _ in range(PROBE_ROUNDS):
        start = time.perf_counter()
        hashlib.sha256(data)  # without Python's lock
        least = min(least, time.perf_counter() - start)
    found.append(least)


def _one_cpu_a_core(allowed: Iterable[int]) -> list[int]:
    first: dict[str, int] = {}
    for cpu in sorted(allowed):
        first.setdefault(_core(cpu), cpu)
    return list(first.values())


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
