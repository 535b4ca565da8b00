"""ExecuTorch's engine: separate pasts, limits instead of dead processes, failed checks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecompile.backends import Export
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.pte import FILE
from edgecompile.backends.executorch_graph.pte_read import PteReader
from edgecompile.model import Model
from edgecompile.runtime.errors import BadInputError, EdgecompileError, UsageError
from edgecompile.runtime.executorch_engine import ExecutorchEngine
from edgecompile.runtime.worker_client import Worker
from tests import tiny
from tests.backends.test_onnx_decoders import CONFIGS, PROMPT, make, rounded
from tests.runtime.executorch_files import opened


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, Export]:
    kind, changes = CONFIGS["llama-tied"]
    model = rounded(make(tmp_path_factory.mktemp("source"), kind, changes).model)
    folder = tmp_path_factory.mktemp("pte")
    return folder, model, Executorch(context_length=64).export(model, folder, quiet)


@pytest.fixture(scope="module")
def engine(exported: tuple[Path, Model, Export]) -> ExecutorchEngine:
    return opened(*exported)


def test_two_leases_at_once_have_pasts_of_their_own(engine: ExecutorchEngine) -> None:
    with engine.decoder(40) as alone:
        expected = np.array(alone.feed(PROMPT))
    with engine.decoder(40) as one, engine.decoder(40) as other:
        for token in PROMPT[:-1]:
            one.feed([token])
            other.feed([7])
        found = np.array(one.feed(PROMPT[-1:]))
    assert found == pytest.approx(expected, abs=0.2)
    assert found.argmax() == expected.argmax()


def test_a_lease_begins_with_an_empty_past(engine: ExecutorchEngine) -> None:
    answers = []
    for _ in range(2):
        with engine.decoder(40) as decoder:
            answers.append(np.array(decoder.feed(PROMPT)))
    assert (answers[0] == answers[1]).all()


def test_the_last_row_is_that_of_all_rows(engine: ExecutorchEngine) -> None:
    with engine.decoder(40) as decoder:
        last = np.array(decoder.feed(PROMPT))
    with engine.decoder(40) as decoder:
        rows = np.concatenate([np.array(chunk) for chunk in decoder.feed_all(PROMPT)])
    assert rows.shape == (len(PROMPT), 320)
    assert rows[-1] == pytest.approx(last, abs=1e-4)


def test_tokens_beyond_the_files_context_are_refused(engine: ExecutorchEngine) -> None:
    with engine.decoder(64) as decoder:
        for _ in range(64):
            decoder.feed([5])
        with pytest.raises(UsageError, match="1 to 64"):
            decoder.feed([5])


def test_a_token_out_of_range_is_refused_and_does_not_end_the_process(
    engine: ExecutorchEngine,
) -> None:
    with engine.decoder(8) as decoder:
        for token in (320, -1):
            with pytest.raises(UsageError, match="0 to 319"):
                decoder.feed([token])


def test_a_file_that_does_not_load_is_bad_input(
    exported: tuple[Path, Model, Export], tmp_path: Path
) -> None:
    folder, model, written = exported
    reader = PteReader(folder / FILE)
    key = next(key for key in reader.named if ".scales#" in key and "gate_proj" in key)
    place = reader.program.segments[reader.named[key]]
    data = bytearray((folder / FILE).read_bytes())
    start = reader.base + place.offset
    data[start : start + place.size] = bytes(place.size)  # XNNPACK refuses scales of 0
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(BadInputError, match="can load"):
        opened(tmp_path, model, written)


def built(folder: Path) -> Path:
    """A bundle of a tiny Llama, as `edgecompile build` leaves it."""
    source = tiny.llama(folder / "m")
    command = [sys.executable, "-m", "edgecompile", "build", str(source), "--target", "mobile",
               "--allow", "no-gain", "-o", str(folder / "dist")]  # fmt: skip
    environment = {**os.environ, "EDGECOMPILE_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [path for path in (folder / "dist").glob("m-mobile*") if path.suffix != ".report"]
    assert found, done.stderr
    return found[0]


@pytest.mark.slow  # a build and its check
def test_a_bundle_answers_in_a_worker_and_a_killed_one_is_an_error_row(tmp_path: Path) -> None:
    with Worker(built(tmp_path), threads=2) as worker:
        assert worker.hello()["engine"] == "executorch"
        assert len(worker.generate_timed([5, 6, 7], 8)["tokens"]) == 8
        os.kill(worker.hello()["pid"], signal.SIGKILL)
        with pytest.raises(EdgecompileError, match="SIGKILL"):
            worker.generate_timed([5, 6, 7], 8)
