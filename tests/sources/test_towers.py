"""Checkpoints of texts and pictures: what they may leave out, and what is refused."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgecompile import sources
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.model import Model
from edgecompile.plan import Request, plan
from edgecompile.reference import Reference
from edgecompile.structure import roles
from tests import tiny

IDS = [[589, 5, 9, 7, 590]]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.clip(tmp_path / "m")


def loaded(folder: Path) -> Model:
    return sources.load(sources.resolve(str(folder)), quiet)


def changed(folder: Path, **values: Any) -> Path:
    """config.json with other values."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


def without(folder: Path, name: str) -> Path:
    """A checkpoint that lacks a tensor."""
    file = folder / "model.safetensors"
    arrays = load_file(file)
    del arrays[name]
    save_file(arrays, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", ["visual_projection.weight", "text_projection.weight"])
def test_a_checkpoint_without_a_projection_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(BadInputError, match=name):
        sources.describe(sources.resolve(str(without(folder, name))))


def test_one_tower_alone_is_refused_by_its_class(folder: Path) -> None:
    changed(folder, architectures=["CLIPVisionModelWithProjection"])
    with pytest.raises(UnsupportedError, match="CLIPVisionModelWithProjection"):
        sources.describe(sources.resolve(str(folder)))


@pytest.mark.parametrize("name", ["SiglipModel", "Siglip2Model"])
def test_siglip_is_refused(name: str, folder: Path) -> None:
    changed(folder, architectures=[name], model_type=name.removesuffix("Model").lower())
    with pytest.raises(UnsupportedError, match=name):
        sources.describe(sources.resolve(str(folder)))


def test_another_clip_is_refused(folder: Path) -> None:
    changed(folder, architectures=["ChineseCLIPModel"], model_type="chinese_clip")
    with pytest.raises(UnsupportedError, match="chinese_clip"):
        sources.describe(sources.resolve(str(folder)))


def test_several_end_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    changed(folder, text_config={**config["text_config"], "eos_token_id": [1, 2]})
    with pytest.raises(UnsupportedError, match="eos_token_id"):
        plan(Request(str(folder), ("cpu",), tmp_path))


def test_pictures_of_another_size_than_the_models_are_refused(folder: Path) -> None:
    tiny.picture_settings(folder, "CLIPImageProcessor", 24)
    with pytest.raises(BadInputError, match="24 x 24"):
        sources.describe(sources.resolve(str(folder)))


def test_a_config_that_states_little_has_the_classs_defaults(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        for key in ("layer_norm_eps", "hidden_act"):
            del config[part][key]
    (folder / "config.json").write_text(json.dumps(config))
    assert sources.describe(sources.resolve(str(folder))).text_config["layer_norm_eps"] == 1e-5


def test_an_older_checkpoints_position_ids_are_left_out(folder: Path) -> None:
    right = Reference(loaded(folder)).embed(IDS)
    file = folder / "model.safetensors"
    arrays = load_file(file)
    arrays["text_model.embeddings.position_ids"] = np.arange(77)[None]
    arrays["vision_model.embeddings.position_ids"] = np.arange(17)[None]
    save_file(arrays, file, {"format": "pt"})
    model = loaded(folder)
    assert roles(model)["text_model.embeddings.position_ids"] == "unused"
    assert np.abs(Reference(model).embed(IDS) - right).max() == 0.0


def test_the_gpu_is_refused_with_what_is_possible(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"several graphs.*cpu") as refused:
        plan(Request(str(folder), ("gpu",), tmp_path))
    assert "browser" not in str(refused.value)
