"""Things that one caller at a time uses: made when all are in use, a few kept for the next."""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from .errors import UsageError


class Leasable(Protocol):
    """What a pool holds."""

    def fits(self, size: int) -> bool:
        """Whether it serves a lease of `size`."""
        ...

    def reset(self) -> None:
        """Forget the last lease."""
        ...

    def close(self) -> None:
        """Free it: called once."""
        ...


T = TypeVar("T", bound=Leasable)


class Pool(Generic[T]):
    """Leases are never waited for, so an abandoned generator cannot hold up another caller.

    `end` is called once, when the pool is closed and the last lease has come back.
    """

    def __init__(
        self, create: Callable[[int], T], end: Callable[[], None], keep: int = 2
    ) -> None:
        self._create, self._end, self._keep = create, end, keep
        self._idle: list[T] = []
        self._leased = 0
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def lease(self, size: int = 0) -> Iterator[T]:
        """An item that fits `size`, this caller's alone inside the `with` block."""
        item = self._take(size)
        try:
            item.reset()
            yield item
        finally:
            self._give_back(item)

    def _take(self, size: int) -> T:
        with self._lock:
            if self._closed:
                raise UsageError("session", "it is closed", "an open session")
            self._leased += 1
            for at, item in enumerate(self._idle):
                if item.fits(size):
                    return self._idle.pop(at)
        try:
            return self._create(size)
        except BaseException:
            self._count_down()
            raise

    def _give_back(self, item: T) -> None:
        with self._lock:
            spare = [item]
            if not self._closed:
                self._idle.insert(0, item)
                spare = self._idle[self._keep :]
                del self._idle[self._keep :]
        for old in spare:
            old.close()
        self._count_down()

    def _count_down(self) -> None:
        with self._lock:
            self._leased -= 1
            last = self._closed and not self._leased
        if last:
            self._end()

    def close(self) -> None:
        """Close what is idle now, and what is leased when it comes back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            last = not self._leased
        for item in idle:
            item.close()
        if last:
            self._end()
