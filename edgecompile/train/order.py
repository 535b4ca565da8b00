"""Which rows a step sees: a function of seed and step alone, so that resuming needs no state."""
from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """One row as a step sees it: `seen` counts all rows drawn before, so no two are alike."""

    row: int
    seen: int


def draws(rows: int, seed: int, start: int, count: int) -> list[Draw]:
    """`count` rows from position `start` of an endless stream: each epoch in an order of its own.

    A step at an epoch's end goes on into the next, so every step has the same number of rows.
    """
    found = []
    for seen in range(start, start + count):
        epoch, place = divmod(seen, rows)
        found.append(Draw(int(_epoch(rows, seed, epoch)[place]), seen))
    return found


@functools.lru_cache(maxsize=8)
def _epoch(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(rows): PCG64's stream is the same on every machine."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def seed_of(*parts: object) -> int:
    """A seed in [0, 2**63) from the hash of what it is for; like names on every machine."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
