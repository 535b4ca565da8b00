"""Kill training runs at random moments: `python -m tests.train.killed MODEL ROWS OUT KILLS`.

One run is left alone, as OUT/whole; the others are killed after at most as long as that one took,
and started again with `resume` until they end. Children are forked from a process that has imported
everything, so that a kill falls into training and not into imports.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from edgecompile.train.run import Request, train
from tests.train.test_run import SETTINGS


def run(model: Path, rows: Path, out: Path) -> None:
    train(
        Request(str(model), out, rows, settings=SETTINGS, resume=True),
        lambda _row: None, lambda *_: None,
    )  # fmt: skip


def killed(model: Path, rows: Path, out: Path, delay: float) -> bool:
    """Whether the run was killed, `delay` seconds after it began."""
    child = os.fork()
    if child == 0:
        run(model, rows, out)
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)  # where it has ended, its status is kept for us
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, f"the run failed with {status}"
    return os.WIFSIGNALED(status)


def main(model: Path, rows: Path, folder: Path, kills: int) -> None:
    """Runs until that many were killed, each to its end; prints what was killed how often."""
    run(model, rows, folder / "first")  # imports what is imported late
    start = time.perf_counter()
    run(model, rows, folder / "whole")
    longest = 1.2 * (time.perf_counter() - start)
    draw, done, number = random.Random(0), 0, 0
    while done < kills:
        out, number = folder / f"run-{number}", number + 1
        while killed(model, rows, out, draw.uniform(0, longest)):
            done += 1
    sys.stdout.write(json.dumps({"kills": done, "runs": number, "seconds": longest / 1.2}) + "\n")


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]), int(sys.argv[4]))
