"""The parent's side of worker.py: a row's file opened in a process of its own."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rows import Made, Row

from edgecompile.numerics.schemes import Float32

HERE = Path(__file__).parent


class Client:
    """A worker of `made`; the constructor returns once its file is open."""

    def __init__(self, row: Row, made: Made, threads: int) -> None:
        python = made.python or sys.executable
        kind = "encoder" if row.task == "embedding" else "decoder"
        command = [
            python, str(HERE / "worker.py"), kind, row.adapter, made.opened, str(threads),
        ]  # fmt: skip
        quiet = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._log = made_log(made)
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, **quiet, "BENCHMARK_ENGINE": json.dumps(row.library)},
            )  # fmt: skip
        self.hello: dict[str, Any] = self._reply()

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """One request and its reply."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        self._child.stdin.flush()
        return self._reply()

    def logits(self, ids: Sequence[int]) -> Float32:
        """float32 [tokens, vocabulary]."""
        shape = self.ask("logits", ids=list(ids))["shape"]
        assert self._child.stdout is not None
        data = self._child.stdout.read(4 * shape[0] * shape[1])
        return np.frombuffer(data, np.float32).reshape(shape)

    def embed(self, ids: Sequence[int]) -> Float32:
        """float32 [dim]."""
        return np.array(self.ask("embed", ids=list(ids))["vector"], np.float32)

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        try:
            self._child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reply(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            code = self._child.wait()
            words = self._log.read_text("utf-8", "replace")[-1500:]
            raise RuntimeError(f"{self._child.args}: ended with {code}: {words}")
        found: dict[str, Any] = json.loads(line)
        return found


def made_log(made: Made) -> Path:
    """Where a row's worker writes what its engine says."""
    opened = Path(made.opened)
    folder = opened if opened.is_dir() else opened.parent
    return folder.parent / f"{folder.name}.worker.log"
