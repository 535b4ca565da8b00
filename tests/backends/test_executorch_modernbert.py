"""ModernBERT's .pte file as we draw it: forms that its cells do not have, and what is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgecompile import sources
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.scope import encoder_refusal
from edgecompile.checks.stored_once import duplicates
from edgecompile.model import Model
from edgecompile.reference import Reference
from tests import tiny
from tests.backends.codes import rounded
from tests.backends.test_executorch import holds_the_model
from tests.runtime.executorch_files import opened

BACKEND = Executorch()
IDS = [[2, *(5 + 3 * i % 40 for i in range(60)), 3], [2, 20, 3]]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def modern(folder: Path, kind: str = "SequenceClassification", **changes: Any) -> Model:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": tiny.word_piece(folder), "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 80,
        "global_attn_every_n_layers": 2, "local_attention": 16, "pad_token_id": 0,
        "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3,
        "num_labels": 3,
    }  # fmt: skip
    config = transformers.ModernBertConfig(**{**sizes, **changes})
    module = getattr(transformers, f"ModernBertFor{kind}")(config)
    for name, weight in module.named_parameters():
        if weight.ndim == 1:  # made as zeros and ones, so that one is like another
            torch.nn.init.uniform_(weight, 0.5, 1.5 if "norm" in name else 1.0)
        else:
            torch.nn.init.normal_(weight, std=0.1)
    module.save_pretrained(folder)
    tiny.card(folder)
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier_pooling": "mean"}, {"norm_bias": True, "attention_bias": True},
        {"mlp_bias": True, "classifier_bias": True}, {"local_attention": 32},
    ],
)  # fmt: skip
def test_other_forms_answer_as_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = modern(tmp_path / "m", **changes)
    (tmp_path / "out").mkdir()
    written = BACKEND.export(model, tmp_path / "out", quiet)
    holds_the_model(tmp_path / "out", model, written)
    found = opened(tmp_path / "out", model, written).encode(IDS)
    right = Reference(model).embed(IDS)
    assert np.abs(np.stack(found) - right).max() < 1e-4 * np.abs(right).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_tied_heads_codes_are_there_once(tmp_path: Path, bits: int) -> None:
    model = rounded(modern(tmp_path / "m", "MaskedLM"), tmp_path / "codes", bits)
    (tmp_path / "out").mkdir()
    written = BACKEND.export(model, tmp_path / "out", quiet)
    holds_the_model(tmp_path / "out", model, written)
    found = np.concatenate(opened(tmp_path / "out", model, written).encode(IDS))
    with Reference(model).quantized(model.quantized) as reference:
        right = np.concatenate(reference.rows(IDS))
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)
    places = {one.place: one for one in BACKEND.extents(tmp_path / "out") if ".codes" in one.name}
    assert not list(duplicates(places.values()))
    tables = {one.place for one in places.values() if "tok_embeddings" in one.name}
    assert len(tables) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_activation": "relu"}, "relu"), ({"classifier_activation": "silu"}, "silu"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, "rope_type"),
    ],
)  # fmt: skip
def test_what_is_not_drawn_is_left_to_torch_export(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    model = modern(tmp_path / "m")
    assert why in encoder_refusal(replace(model, config={**model.config, **change}))
