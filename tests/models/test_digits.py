"""The shelf's digits-cnn: trained by its script, loaded by its entry point."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgecompile import sources
from edgecompile.errors import BadInputError
from edgecompile.reference import Reference
from edgecompile.text.pictures import read_pictures
from tests.models.scripts import opened

pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return opened("digits-cnn/digits.py")


@pytest.fixture(scope="module")
def trained(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight passes over the digits instead of twenty."""
    folder = tmp_path_factory.mktemp("digits")
    learnt, held_out = digits.digits(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "EPOCHS", 14)
        digits.write(digits.train(learnt, 0), held_out, folder)
    return folder


def load(folder: Path, patch: pytest.MonkeyPatch) -> Reference:
    patch.setenv("DIGITS_CNN", str(folder))
    return Reference(sources.load(sources.resolve("digits-cnn"), lambda *_: None))


def test_a_build_gets_the_trained_weights_which_know_97_percent(
    trained: Path, digits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, labels = digits.digits(0)[1]
    found = load(trained, monkeypatch).look(digits.prepared(pictures).numpy())
    assert (found.argmax(1) == labels).mean() > 0.97


def test_the_card_prepares_the_written_pictures_as_training_did(
    trained: Path, digits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(trained, monkeypatch).model
    assert model.pictures is not None
    files = sorted((trained / "pictures").rglob("*.png"), key=lambda file: file.name)[:20]
    expected = digits.prepared(digits.digits(0)[1][0][:20]).numpy()
    assert np.abs(model.pictures.prepare(files) - expected).max() < 1e-6


def test_the_pictures_are_those_that_were_held_out_with_their_digits(
    trained: Path, digits: ModuleType
) -> None:
    corpus = read_pictures(trained / "pictures")
    rows = [row for part in corpus.parts.values() for row in part]
    assert sorted(row.label or "" for row in rows) == sorted(map(str, digits.digits(0)[1][1]))


def test_learnt_and_held_out_digits_are_all_of_them_once(digits: ModuleType) -> None:
    (learnt, _), (held_out, _) = digits.digits(0)
    assert (len(learnt), len(held_out)) == (629, 1168)
    assert not {one.tobytes() for one in learnt} & {one.tobytes() for one in held_out}


def test_the_same_seed_gives_the_same_bytes(
    trained: Path, digits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "EPOCHS", 14)
    learnt, held_out = digits.digits(0)
    digits.write(digits.train(learnt, 0), held_out, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()


def test_without_weights_the_way_out_is_the_command_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInputError, match=r"python .*digits\.py --out"):
        load(tmp_path, monkeypatch)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadInputError, match="this network's weights"):
        load(tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_whole_training_knows_98_percent(digits: ModuleType) -> None:
    learnt, held_out = digits.digits(0)
    assert digits.accuracy(digits.train(learnt, 0), held_out) > 0.98
