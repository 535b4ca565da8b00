"""CLIP's .pte file as we draw it: forms that its cell does not have, and what is left to others."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompile import sources
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.scope import towers_refusal
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.runtime.batching import look_all
from tests import tiny
from tests.architectures.test_cells import opened

END = 590
TEXTS = [[589, 5, 9, 7, END], [589, END], [589, 11, END, 3, 4, 8, END], [589, *[4] * 75, END]]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def clip(folder: Path, **changes: Any) -> Model:
    return sources.load(sources.resolve(str(tiny.clip(folder, **changes))), quiet)


def test_gelu_and_patches_that_leave_a_margin_are_the_sources(tmp_path: Path) -> None:
    vision = {"hidden_act": "gelu", "patch_size": 7, "num_attention_heads": 8}
    model = clip(tmp_path / "m", hidden_act="gelu", vision=vision)
    (tmp_path / "out").mkdir()
    written = Executorch().export(model, tmp_path / "out", quiet)
    engine, reference = opened(tmp_path / "out", model, written), Reference(model)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert np.abs(look_all(engine, pixels, 1) - reference.look(pixels)).max() < 1e-4
    assert np.abs(np.stack(list(engine.encode(TEXTS))) - reference.embed(TEXTS)).max() < 1e-4


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        ("text_config", {"hidden_act": "relu"}, "relu"),
        ("vision_config", {"layer_norm_eps": 1e-3}, "epsilon"),
    ],
)
def test_what_is_not_drawn_is_left_to_torch_export(
    part: str, change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    model = clip(tmp_path / "m")
    config = {**model.config, part: {**model.config[part], **change}}
    assert why in towers_refusal(replace(model, config=config))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = clip(tmp_path / "m")
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Executorch().export(model, tmp_path / name, quiet)
        files.append((tmp_path / name / "model.pte").read_bytes())
    assert files[0] == files[1]
