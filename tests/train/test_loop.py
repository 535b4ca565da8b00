"""The loop, whatever is learned: the same bytes from the same seed, resuming, precision."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgecompile.errors import LimitError, UnsupportedError, UsageError
from edgecompile.train.checkpoints import latest
from edgecompile.train.loop import Fitted, Place, Row, fit
from edgecompile.train.options import parse
from tests.train import small

OPTIONS: dict[str, Any] = {"batch": 8, "steps": 9, "lr": 1e-3, "threads": 1, "save_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.bert(tmp_path_factory.mktemp("dropping"), hidden_dropout_prob=0.3)


def run(folder: Path, at: Path, place: Place | None = None, **changes: Any) -> Fitted:
    module, objective = small.classifier(folder, small.data_file(at), changes.get("seed", 0))
    return fit(module, objective, parse(OPTIONS | changes), place)


def losses(fitted: Fitted) -> list[float]:
    return [row["loss"] for row in fitted.rows]


def digest(fitted: Fitted) -> str:
    total = hashlib.sha256()
    for name, tensor in fitted.module.state_dict().items():
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


class KilledError(Exception):
    """What stands for the end of the process."""


def killed_after(step: int, folder: Path) -> Place:
    def watch(row: Row) -> None:
        if row.step == step:
            raise KilledError

    return Place(folder, "a run", watch=watch)


def test_the_same_seed_gives_the_same_weights(dropping: Path, tmp_path: Path) -> None:
    assert digest(run(dropping, tmp_path)) == digest(run(dropping, tmp_path))


def test_another_seed_gives_other_weights(folder: Path, tmp_path: Path) -> None:
    assert digest(run(folder, tmp_path)) != digest(run(folder, tmp_path, seed=1))


def test_the_loss_falls(folder: Path, tmp_path: Path) -> None:
    found = losses(run(folder, tmp_path, steps=40, lr=3e-3))
    assert sum(found[-4:]) < sum(found[:4]) / 2


@pytest.mark.parametrize("stop", [1, 2, 5, 8])
def test_a_stopped_run_goes_on_to_the_same_curve_and_weights(
    stop: int, dropping: Path, tmp_path: Path
) -> None:
    whole = run(dropping, tmp_path)
    with pytest.raises(KilledError):
        run(dropping, tmp_path, killed_after(stop, tmp_path / "run"))
    resumed = run(dropping, tmp_path, Place(tmp_path / "run", "a run"))
    # a watcher is told before the step's checkpoint is written
    assert (losses(resumed), digest(resumed)) == (losses(whole), digest(whole))
    assert resumed.resumed == (stop - 1) // 2 * 2


def test_parts_of_a_batch_give_the_loss_of_the_whole(folder: Path, tmp_path: Path) -> None:
    whole, parts = losses(run(folder, tmp_path)), losses(run(folder, tmp_path, accumulate=3))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_recomputed_activations_give_the_same_loss(folder: Path, tmp_path: Path) -> None:
    again = run(folder, tmp_path, checkpointing=True)
    assert again.module.is_gradient_checkpointing
    assert losses(again) == pytest.approx(losses(run(folder, tmp_path)), rel=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_fewer_bits_learn_nearly_the_same(precision: str, folder: Path, tmp_path: Path) -> None:
    found = losses(run(folder, tmp_path, precision=precision))
    whole = losses(run(folder, tmp_path))
    assert found == pytest.approx(whole, rel=2e-2)
    assert found != whole


def test_weights_stay_float32_in_mixed_precision(folder: Path, tmp_path: Path) -> None:
    found = run(folder, tmp_path, precision="bfloat16").module.state_dict()
    assert {tensor.dtype for tensor in found.values() if tensor.is_floating_point()} == {
        torch.float32
    }


def test_float8_is_refused_without_a_gpu_that_has_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"fp8 on cpu.*compute capability"):
        run(folder, tmp_path, precision="fp8")


def test_a_checkpoint_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(folder, tmp_path, killed_after(4, tmp_path / "run"))
    with pytest.raises(UsageError, match="a checkpoint of other options"):
        run(folder, tmp_path, Place(tmp_path / "run", "another run"))


def failing(folder: Path, at: Path, step: int, value: str) -> tuple[nn.Module, Any]:
    """A module, and an objective whose loss is no number at one step."""
    module, objective = small.classifier(folder, small.data_file(at))
    learn, calls = objective.loss, list[int]()

    def loss(module: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        found, numbers = learn(module, batch)
        calls.append(0)
        return found * float(value if len(calls) == step else 1.0), numbers

    objective.loss = loss  # type: ignore[method-assign]
    return module, objective


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    module, objective = failing(folder, tmp_path, 6, "nan")
    place = Place(tmp_path / "run", "a run")
    with pytest.raises(LimitError, match=r"step 6: the loss is nan.*step-000000004"):
        fit(module, objective, parse(OPTIONS), place)
    assert latest(tmp_path / "run") is not None


def test_float16_leaves_a_step_out_where_it_overflows_and_halves_the_scale(
    folder: Path, tmp_path: Path
) -> None:
    module, objective = failing(folder, tmp_path, 3, "inf")
    rows = fit(module, objective, parse(OPTIONS | {"precision": "float16"})).rows
    assert [row["loss_scale"] for row in rows[1:4]] == [65536.0, 32768.0, 32768.0]


def test_the_best_weights_on_held_out_rows_are_kept(folder: Path, tmp_path: Path) -> None:
    kept = run(folder, tmp_path, keep="best", evaluate_every=1, steps=30, lr=3e-3)
    seen = [row["held_out"]["accuracy"] for row in kept.rows]
    assert kept.held_out["accuracy"] == max(seen)
    assert kept.step == seen.index(max(seen)) + 1
