"""Work in pieces of a fixed size, a thread a piece: the same bits on any number of cores.

torch's own threads split sums by their number, and wait for each other on a busy machine; so each
piece runs on one.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from edgecompile.host import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread_a_piece() -> Iterator[None]:
    """Inside, torch computes each operation on the thread that asked for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results in the order of the items, as many at work (or waiting to be read) as cores."""
    cores = usable_cores()
    # A new thread would start torch's and MKL's own threads again: each has its own setting.
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for start in range(0, len(items), cores):
            yield from pool.map(function, items[start : start + cores])


def pieces(total: int, size: int) -> list[slice]:
    """Slices of `size` that cover range(total)."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def run_all(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Run a function for its effect."""
    for _ in spread(function, list(items)):
        pass
