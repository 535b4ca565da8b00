"""Two processes, started by torchrun, learn what one does: with copies, shards and split layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgecompile.train.loop import Place, fit
from edgecompile.train.options import parse
from edgecompile.train.run import Request, train
from tests import tiny
from tests.train import small, worker
from tests.train.test_objectives import several

MODES = (
    "data-float32-1", "data-float32-2", "fsdp-float32-1", "tensor-float32-1",
    "data-float16-1", "fsdp-float16-1", "tensor-float16-1", "fsdp-bfloat16-2",
)  # fmt: skip
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, a file a mode."""
    folder = tmp_path_factory.mktemp("two")
    launch(folder, small.bert(folder / "model"), small.data_file(folder), *MODES)
    return folder


def launch(folder: Path, model: Path, rows: Path, *modes: str) -> None:
    torchrun("tests.train.worker", model, rows, folder, *modes)


def torchrun(module: str, *arguments: object) -> None:
    words = ["--nproc-per-node", "2", "--standalone", "-m", module]
    command = [sys.executable, "-m", "torch.distributed.run", *words, *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [str(word) for word in command], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def alone(folder: Path, mode: str) -> Any:
    _, precision, _ = mode.split("-")
    module, objective = small.classifier(folder / "model", small.data_file(folder))
    return fit(module, objective, parse(worker.OPTIONS | {"precision": precision}))


def table(found: Path, mode: str) -> dict[str, Any]:
    return dict(json.loads((found / f"{mode}.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_processes_have_the_losses_of_one(mode: str, found: Path) -> None:
    near = 1e-5 if "float32" in mode else 2e-2
    losses = [row["loss"] for row in alone(found, mode).rows]
    assert table(found, mode)["losses"] == pytest.approx(losses, rel=near)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if "float32" in mode])
def test_two_processes_see_the_gradients_of_one(mode: str, found: Path) -> None:
    norms = [row["gradient_norm"] for row in alone(found, mode).rows]
    assert table(found, mode)["norms"] == pytest.approx(norms, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if "float32" in mode])
def test_two_processes_end_at_the_weights_of_one(mode: str, found: Path) -> None:
    whole = alone(found, mode).module.state_dict()
    weights = load_file(found / f"{mode}.safetensors")
    worst = max(float((weights[name] - tensor).abs().max()) for name, tensor in whole.items())
    assert worst < 1e-5  # a thousandth of the rate


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "parameters"),
    # FSDP shows whole parameters while a block runs, parts of those that wait;
    # of tensor parallel's two layers six linear ones are split: 12 weights, their biases
    [("data-float32-1", 0), ("tensor-float32-1", 24)],
)
def test_layers_are_split_where_that_was_asked_for(
    mode: str, parameters: int, found: Path
) -> None:
    assert table(found, mode)["split"] == parameters


@pytest.mark.slow
def test_shards_are_parts_of_every_parameter(found: Path) -> None:
    assert table(found, "fsdp-float32-1")["split"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fsdp-float32-1", "tensor-float32-1"])
def test_one_process_goes_on_with_a_checkpoint_of_two(
    mode: str, found: Path, tmp_path: Path
) -> None:
    place = Place(found / f"{mode}.train", "a run")
    module, objective = small.classifier(found / "model", small.data_file(found))
    resumed = fit(module, objective, parse(worker.OPTIONS), place)
    assert resumed.resumed == 4
    assert resumed.rows[-1]["loss"] == pytest.approx(table(found, mode)["losses"][-1], rel=1e-5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with a tied head, an encoder, a recipe with two heads, rows for each."""
    folder = tmp_path_factory.mktemp("models")
    small.bert(folder / "encoder")
    tiny.llama(folder / "decoder")
    small.data_file(folder)
    several(folder, 1.0)
    (folder / "prose.txt").write_text("\n\n".join(f"{tiny.TEXT} {n}" for n in range(20)))
    return folder


SETTINGS = ("train.steps=4", "train.batch=8", "train.threads=1", "train.length=32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "parallel"),
    [
        ("decoder", "prose.txt", "data"), ("decoder", "prose.txt", "fsdp"),
        ("decoder", "prose.txt", "tensor"), ("several.toml", None, "data"),
        ("several.toml", None, "fsdp"), ("several.toml", None, "tensor"),
        ("encoder", "rows-60-0.jsonl", "data"), ("encoder", "rows-60-0.jsonl", "fsdp"),
    ],
)  # fmt: skip
def test_the_command_learns_the_same_in_two_processes(
    model: str, data: str | None, parallel: str, models: Path, tmp_path: Path
) -> None:
    adapters = model == "encoder"  # one of them with adapters
    settings = (*SETTINGS, f"train.parallel={parallel}", f"train.lora.rank={4 * adapters}")
    words = [f"--set={one}" for one in settings] + ([f"--data={models / data}"] if data else [])
    torchrun("edgecompile", "-q", "train", models / model, *words, "-o", tmp_path / "two")
    request = Request(
        str(models / model), tmp_path / "one", models / data if data else None, settings=settings
    )
    train(request, lambda _row: None, lambda *_: None)
    one, two = (losses(tmp_path / f"{name}.train") for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)


def losses(work: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (work / "metrics.jsonl").read_text().splitlines()]
