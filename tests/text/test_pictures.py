"""Pictures for calibration and checks: folders, labels, parts that cannot overlap, crops."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile.errors import BadInputError
from edgecompile.text.parts import Document, Shot
from edgecompile.text.pictures import default_pictures, open_picture, read_pictures


def noise(file: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures of two classes."""
    place = tmp_path_factory.mktemp("pictures")
    for seed in range(30):
        noise(place / ("cat" if seed % 2 else "dög") / f"{seed}.png", seed)
    return place


def test_a_subfolder_is_the_label(folder: Path) -> None:
    corpus = read_pictures(folder)
    assert {d.label for part in corpus.parts.values() for d in part} == {"cat", "dög"}


def test_every_picture_is_in_one_part(folder: Path) -> None:
    corpus = read_pictures(folder)
    names = [d.text for part in corpus.parts.values() for d in part]
    assert len(names) == len(set(names)) == 30


def test_parts_and_digests_are_of_the_bytes_and_not_of_the_place(
    folder: Path, tmp_path: Path
) -> None:
    for seed in range(30):
        noise(tmp_path / "elsewhere" / ("cat" if seed % 2 else "dög") / f"x{seed}.png", seed)
    here, there = read_pictures(folder), read_pictures(tmp_path / "elsewhere")
    assert {d.text for d in here.held_out} == {d.text for d in there.held_out}


def test_pictures_beside_subfolders_have_no_label(tmp_path: Path) -> None:
    for seed in range(30):
        noise(tmp_path / ("" if seed else "cat") / f"{seed}.png", seed)
    corpus = read_pictures(tmp_path)
    assert {d.label for part in corpus.parts.values() for d in part} == {None}


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(BadInputError, match="no pictures"):
        read_pictures(tmp_path)


def test_too_few_pictures_for_three_parts_are_refused(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 0)
    with pytest.raises(BadInputError, match="leave the part"):
        read_pictures(tmp_path)


def test_a_crop_is_the_same_every_time(tmp_path: Path) -> None:
    document = Document("x", None, Shot(noise(tmp_path / "a.png", 1), 7))
    first, second = (np.asarray(open_picture(document)) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("crop", range(1, 6))
def test_a_crop_lies_in_the_picture(crop: int, tmp_path: Path) -> None:
    document = Document("x", None, Shot(noise(tmp_path / "a.png", 1, (3, 200)), crop))
    width, height = open_picture(document).size
    assert 1 <= width <= 3
    assert 60 <= height <= 200


def test_a_damaged_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(BadInputError, match=r"bad\.png"):
        open_picture(Document("x", None, Shot(tmp_path / "bad.png")))


@pytest.mark.skipif(not importlib.util.find_spec("skimage"), reason="scikit-image is not installed")
def test_the_default_pictures_prove_a_classifier() -> None:
    assert len(default_pictures().held_out) >= 300


@pytest.mark.skipif(not importlib.util.find_spec("skimage"), reason="scikit-image is not installed")
def test_crops_of_one_default_picture_are_in_one_part() -> None:
    corpus = default_pictures()
    parts = [{d.text.split()[0] for d in part} for part in corpus.parts.values()]
    assert sum(map(len, parts)) == len(set().union(*parts))
