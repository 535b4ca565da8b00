"""How many threads a session takes where nobody says."""

from __future__ import annotations

import os
import threading

import pytest

from edgecompile.runtime import threads


def test_the_probe_never_finds_more_than_the_physical_cores() -> None:
    assert 1 <= threads.probed_cores() <= threads.physical_cores()


def test_the_probe_leaves_the_caller_on_all_its_processors() -> None:
    before = os.sched_getaffinity(0)
    threads.probed_cores()
    assert os.sched_getaffinity(0) == before


def test_a_process_with_one_processor_gets_one_thread() -> None:
    found: list[int] = []

    def alone() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        found.append(threads.probed_cores())

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    assert found == [1]


def test_slow_cores_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    big, little = [0.001] * 4, [0.0025] * 4
    monkeypatch.setattr(threads, "_times", lambda _: big + little)
    assert threads.probed_cores() == 4


def test_where_no_thread_can_be_pinned_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "physical_cores", lambda: 4)
    monkeypatch.setattr(threads, "_times", lambda _: [])
    assert threads.probed_cores() == 4
