"""A checkpoint for text and pictures is read as its decoder, with a note."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgecompile import sources
from edgecompile.backends import decoders
from edgecompile.model import Model
from edgecompile.reference import Reference
from tests import tiny

TEXT: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
    "query_pre_attn_scalar": 16, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
IDS = [2, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 3]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    tiny.byte_bpe(folder)
    tiny.card(folder)
    config = transformers.Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4
    )
    module = transformers.Gemma3ForConditionalGeneration(config).eval()
    module.save_pretrained(folder)
    return module, sources.load(sources.resolve(str(folder)), lambda *_: None)


def test_its_answers_are_those_of_the_whole_model_on_text(loaded: tuple[Any, Model]) -> None:
    module, model = loaded
    with torch.no_grad():
        expected = module(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(Reference(model).logits(IDS) - expected).max() < 1e-4


def test_every_engine_draws_it(loaded: tuple[Any, Model]) -> None:
    _, model = loaded
    assert (model.task, model.architecture) == ("text-generation", "gemma3_text")
    assert decoders.refusal(model) == ""


def test_what_is_left_out_is_said(loaded: tuple[Any, Model]) -> None:
    _, model = loaded
    assert not any("vision" in name for name in model.weights)
    assert any("tensors for pictures are left out" in note for note in model.source.notes)
