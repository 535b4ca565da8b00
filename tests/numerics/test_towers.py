"""CLIP's graphs beside transformers' own functions."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecompile import sources
from edgecompile.numerics.towers import PictureTower, TextTower
from edgecompile.reference import Reference
from tests import tiny

END = 590  # the highest id of tiny.clip's vocabulary
IDS = [[589, 5, 9, 7, END], [589, 11, END, 3, 4, 8, END], [589, 5, END, 9], [589, 7, 8]]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module", params=[END, 2], ids=["today's rule", "the highest id"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    folder = tiny.clip(tmp_path_factory.mktemp("clip") / "m", eos_token_id=request.param)
    return Reference(sources.load(sources.resolve(str(folder)), quiet))


@pytest.mark.parametrize("ids", IDS, ids=["end", "two ends", "end inside", "no end"])
def test_a_texts_vector_is_that_of_its_end_token(ids: list[int], reference: Reference) -> None:
    with torch.inference_mode():
        found = TextTower(reference.body)(torch.tensor([ids])).numpy()
    assert np.abs(found - reference.embed([ids])).max() < 1e-6


def test_padding_after_a_text_changes_nothing(reference: Reference) -> None:
    padded = [[*ids, *[END] * (9 - len(ids))] for ids in IDS[:2]]  # CLIP pads with its end token
    with torch.inference_mode():
        found = TextTower(reference.body)(torch.tensor(padded)).numpy()
    assert np.abs(found - reference.embed(IDS[:2])).max() < 1e-6


def test_pictures_have_the_sources_vectors(reference: Reference) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        found = PictureTower(reference.body)(torch.from_numpy(pixels)).numpy()
    assert np.abs(found - reference.look(pixels)).max() < 1e-6


def test_the_vocabulary_is_as_large_as_these_tests_say(tmp_path: Path) -> None:
    assert tiny.clip_bpe(tmp_path) == END + 1
