from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecompile import host


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for `/`: what `host` reads of /proc and /sys comes from below it."""
    read = host._read
    monkeypatch.setattr(host, "_read", lambda file: read(tmp_path / str(file).lstrip("/")))
    host._cpuinfo.cache_clear()
    yield tmp_path
    host._cpuinfo.cache_clear()


def put(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_this_machine_has_a_name_a_level_cores_and_memory() -> None:
    here = host.host()
    assert here.cpu
    assert here.level
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert 0 <= here.available_mib <= here.memory_mib


V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = V2 + " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse2", "x86-64"),
        (V2, "x86-64-v2"),
        (V3, "x86-64-v3"),
        (V3 + " avx_vnni", "x86-64-v3+avxvnni"),
        (V4 + " avx512_vnni avx512_bf16 amx_int8", "x86-64-v4+vnni+bf16+amx"),
        (V4.replace("sse4_2", ""), "x86-64"),
    ],
)
def test_the_level_follows_the_flags(
    machine: Path, monkeypatch: pytest.MonkeyPatch, flags: str, level: str
) -> None:
    monkeypatch.setattr(host.platform, "machine", lambda: "x86_64")
    put(machine, "/proc/cpuinfo", f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor: 1")
    assert host.cpu_level() == level


def test_an_arm_processor_lists_what_its_kernels_use(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.platform, "machine", lambda: "aarch64")
    put(machine, "/proc/cpuinfo", "processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm\n")
    assert host.cpu_level() == "arm64+fp16+dotprod+i8mm"


def test_the_lowest_limit_of_the_cgroups_counts(machine: Path) -> None:
    put(machine, "/proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n")
    put(machine, "/proc/self/cgroup", "0::/a/b\n")
    put(machine, "/sys/fs/cgroup/a/b/memory.max", "max")
    put(machine, "/sys/fs/cgroup/a/memory.max", str(2048 << 20))
    put(machine, "/sys/fs/cgroup/a/memory.current", str(1024 << 20))
    put(machine, "/sys/fs/cgroup/a/memory.stat", f"anon 1\ninactive_file {512 << 20}\n")
    assert host.memory_mib() == (2048, 1536)


def test_the_first_version_of_cgroups_is_read_too(machine: Path) -> None:
    put(machine, "/proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n")
    put(machine, "/proc/self/cgroup", "4:memory:/docker/x\n1:cpu,cpuacct:/\n")
    put(machine, "/sys/fs/cgroup/memory/memory.limit_in_bytes", str(9223372036854771712))
    put(machine, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "1")
    assert host.memory_mib() == (8192, 6144)
    put(machine, "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", str(1024 << 20))
    put(machine, "/sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", str(24 << 20))
    assert host.memory_mib() == (1024, 1000)


def test_two_threads_of_one_core_count_once_and_a_quota_lowers_further(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for cpu in range(4):
        put(machine, f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", "0")
        put(machine, f"/sys/devices/system/cpu/cpu{cpu}/topology/core_id", str(cpu // 2))
    assert host.usable_cores() == 2
    put(machine, "/proc/self/cgroup", "0::/\n")
    put(machine, "/sys/fs/cgroup/cpu.max", "150000 100000")
    assert host.usable_cores() == 1
    put(machine, "/sys/fs/cgroup/cpu.max", "max 100000")
    assert host.usable_cores() == 2


def test_nothing_crashes_where_proc_and_sys_are_missing(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for system in ("Darwin", "Windows", "Linux"):
        monkeypatch.setattr(host.platform, "system", lambda name=system: name)
        here = host.host()
        assert here.cores >= 1
        assert here.memory_mib >= 0


def test_free_disk_is_told_for_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert host.disk_free_mib(tmp_path / "a" / "b") > 0
