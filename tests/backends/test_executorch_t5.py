"""T5's .pte file as we draw it: forms that its cells do not have, and what is left to others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecompile import facts, sources
from edgecompile.backends import Export
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.scope import t5_refusal
from edgecompile.checks.stored_once import duplicates
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.runtime import seq2seq
from tests import tiny
from tests.architectures.test_cells import opened
from tests.backends.codes import rounded
from tests.backends.test_executorch import decoded, holds_the_model

BACKEND = Executorch()
SOURCE = [*(5 + 7 * i % 50 for i in range(70)), 1]
ANSWER = [0, *(4 + 3 * i % 50 for i in range(199))]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def t5(folder: Path, **changes: Any) -> Model:
    return sources.load(sources.resolve(str(tiny.t5(folder, **changes))), quiet)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return t5(tmp_path_factory.mktemp("t5") / "m")


def written(model: Model, folder: Path) -> Export:
    folder.mkdir()
    made = BACKEND.export(model, folder, quiet)
    holds_the_model(folder, model, made)
    return made


def logits(model: Model, folder: Path, ids: list[int], *cuts: int) -> NDArray[np.float32]:
    """The file's logits after each token of an answer, fed in the parts between cuts."""
    engine = opened(folder, model, written(model, folder))
    with engine.decoder(len(ids)) as decoder:
        seq2seq.begin(decoder, SOURCE)
        ends = zip((0, *cuts), (*cuts, len(ids)), strict=True)
        parts = [np.array(rows) for a, b in ends for rows in decoder.feed_all(ids[a:b])]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"feed_forward_proj": "gated-gelu"}, {"feed_forward_proj": "gated-silu"},
        {"feed_forward_proj": "gelu"}, {"num_heads": 3},
    ],
)  # fmt: skip
def test_other_forms_answer_as_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = t5(tmp_path / "m", **changes)
    right = Reference(model).answer_logits(SOURCE, ANSWER[:40])
    assert np.abs(logits(model, tmp_path / "out", ANSWER[:40], 1, 2, 20) - right).max() < 1e-4


def test_an_answer_of_several_calls_is_that_of_one(plain: Model, tmp_path: Path) -> None:
    right = Reference(plain).answer_logits(SOURCE, ANSWER)
    found = logits(plain, tmp_path / "out", ANSWER)  # 128 tokens, then the rest
    assert np.abs(found - right).max() < 1e-4


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_there_once_and_near_torch_on_the_same_codes(
    plain: Model, tmp_path: Path, bits: int
) -> None:
    model = rounded(plain, tmp_path / "codes", bits)
    found = logits(model, tmp_path / "out", ANSWER[:20], 1)
    with Reference(model).quantized(model.quantized) as reference:
        right = reference.answer_logits(SOURCE, ANSWER[:20])
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)
    places = {one.place: one for one in BACKEND.extents(tmp_path / "out") if ".codes" in one.name}
    assert not list(duplicates(places.values()))


def test_its_epsilon_is_found_again(plain: Model, tmp_path: Path) -> None:
    found = decoded(tmp_path / "out", plain, written(plain, tmp_path / "out")).facts
    assert found["norm_eps"] == pytest.approx(facts.of_config(plain.config)["norm_eps"])
    assert found["norm_eps_spread"] == 0


def test_an_activation_that_is_not_drawn_is_left_to_torch_export(plain: Model) -> None:
    config = {**plain.config, "feed_forward_proj": "gated-tanh"}
    assert "tanh" in t5_refusal(replace(plain, config=config))


def test_the_same_model_gives_the_same_bytes(plain: Model, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(plain, tmp_path / name)
    files = [(tmp_path / name / "model.pte").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
