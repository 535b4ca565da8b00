"""Encoders and modules as .pte files: the chosen codes, torch's answers, honest refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from edgecompile import bundle, facts, sources
from edgecompile.backends import Decoded, Export
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.scope import FILE
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import float_digest
from edgecompile.reference import Reference
from tests import tiny
from tests.backends.codes import rounded
from tests.runtime.executorch_files import opened

BACKEND = Executorch()
IDS = [[2, 10, 11, 12, 13, 3], [2, 20, 3]]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def load(folder: str, task: str = "") -> Model:
    return sources.load(sources.resolve(folder, task=task), quiet)


def decoded(folder: Path, model: Model, written: Export) -> Decoded:
    manifest: Mapping[str, Any] = {
        "tensors": bundle.tensor_entries(model, written),
        "floats": bundle.float_entries(model, written),
        "engine": {"options": json.loads(json.dumps(dict(written.options)))},
    }
    return BACKEND.decode(folder, manifest)


def holds_the_model(folder: Path, model: Model, written: Export) -> None:
    found = decoded(folder, model, written)
    for name in model.quantized:
        assert found.quantized[name].digest(name) == model.quantized[name].digest(name), name
    for name in set(model.weights) - set(model.quantized) - set(written.unused):
        values = model.dense(name)
        assert float_digest(name, found.floats[name], "") == float_digest(name, values, ""), name
    there = found.quantized.keys() | found.floats.keys() | written.unused.keys()
    assert there == set(model.weights)


def classifier(folder: Path) -> Path:
    """A BERT with three labels."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tiny.word_piece(folder), hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, num_labels=3,
        initializer_range=0.1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tiny.card(folder)
    return folder


@pytest.fixture(scope="module", params=["embedding", "classification"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("encoder") / "m"
    make = tiny.bert if request.param == "embedding" else classifier
    return load(str(make(folder)), request.param)


def test_an_encoder_of_floats_answers_as_torch(encoder: Model, tmp_path: Path) -> None:
    written = BACKEND.export(encoder, tmp_path, quiet)
    found = opened(tmp_path, encoder, written).encode(IDS)
    assert found == pytest.approx(Reference(encoder).embed(IDS), abs=2e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_encoder_on_codes_is_near_torch_on_the_same_codes(
    encoder: Model, tmp_path: Path, bits: int
) -> None:
    model = rounded(encoder, tmp_path / "codes", bits)
    (tmp_path / "out").mkdir()
    written = BACKEND.export(model, tmp_path / "out", quiet)
    holds_the_model(tmp_path / "out", model, written)
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.embed(IDS)
    found = opened(tmp_path / "out", model, written).encode(IDS)
    for one, other in zip(found, expected, strict=True):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


@pytest.mark.parametrize("ids", [[2, 100_000, 3], [2] * 129])
def test_tokens_out_of_range_are_refused_and_do_not_end_the_process(
    encoder: Model, tmp_path: Path, ids: list[int]
) -> None:
    engine = opened(tmp_path, encoder, BACKEND.export(encoder, tmp_path, quiet))
    for call in (lambda: engine.encode([ids]), lambda: engine.run({"input_ids": np.array([ids])})):
        with pytest.raises(UsageError, match="token ids"):
            call()


def test_an_encoders_numbers_are_found_again(encoder: Model, tmp_path: Path) -> None:
    found = decoded(tmp_path, encoder, BACKEND.export(encoder, tmp_path, quiet)).facts
    expected = facts.of_config(encoder.config)
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)
    assert "norm_eps" in found


def test_the_same_encoder_gives_the_same_bytes(encoder: Model, tmp_path: Path) -> None:
    model = rounded(encoder, tmp_path / "codes", 8)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        BACKEND.export(model, tmp_path / name, quiet)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


def dense_module() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.LayerNorm(96), nn.Linear(96, 32))
    return layers.eval(), (torch.randn(2, 64),)


@pytest.mark.slow  # ExecuTorch's own exporter
def test_a_users_module_is_lowered_with_its_codes(tmp_path: Path) -> None:
    model = load(f"{__name__}:dense_module")
    model = rounded(model, tmp_path / "codes", 8)
    (tmp_path / "out").mkdir()
    written = BACKEND.export(model, tmp_path / "out", quiet)
    holds_the_model(tmp_path / "out", model, written)
    given = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    found = opened(tmp_path / "out", model, written).run({written.inputs[0].name: given})
    with Reference(model).quantized(model.quantized) as reference:
        expected = reference.run(**{written.inputs[0].name: given})["output_0"]
    assert np.linalg.norm(found["output_0"] - expected) < 0.03 * np.linalg.norm(expected)


def test_the_bias_of_far_words_is_the_sources(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MPNetConfig(
        vocab_size=tiny.word_piece(tmp_path / "m"), hidden_size=64, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=202,
        initializer_range=0.2, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    transformers.MPNetForSequenceClassification(config).save_pretrained(tmp_path / "m")
    tiny.card(tmp_path / "m")
    model = load(str(tmp_path / "m"))
    (tmp_path / "out").mkdir()
    written = BACKEND.export(model, tmp_path / "out", quiet)
    holds_the_model(tmp_path / "out", model, written)
    ids = [[2, *(5 + i % 40 for i in range(198)), 3], [2, 20, 3]]  # farther than 128, and near
    found = opened(tmp_path / "out", model, written).encode(ids)
    assert found == pytest.approx(Reference(model).embed(ids), abs=2e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_words_that_are_looked_up_and_guessed_are_there_once(tmp_path: Path, bits: int) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tiny.word_piece(tmp_path / "m"), hidden_size=64, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, initializer_range=0.1,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "m")
    tiny.card(tmp_path / "m")
    model = rounded(load(str(tmp_path / "m")), tmp_path / "codes", bits)
    (tmp_path / "out").mkdir()
    written = BACKEND.export(model, tmp_path / "out", quiet)
    holds_the_model(tmp_path / "out", model, written)
    found = np.concatenate(opened(tmp_path / "out", model, written).encode(IDS))
    with Reference(model).quantized(model.quantized) as reference:
        right = np.concatenate(reference.rows(IDS))
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)
    named = (one for one in BACKEND.extents(tmp_path / "out") if "word_embeddings" in one.name)
    assert len({one.place for one in named if ".codes" in one.name}) == 1
