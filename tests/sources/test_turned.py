"""GPT-2's checkpoints have matrices as [in, out]: read as [out, in], and written as they were."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgecompile import tokenizer
from edgecompile.compress import compress
from edgecompile.errors import UsageError
from edgecompile.model import Model
from edgecompile.plan import Request
from edgecompile.reference import Reference
from edgecompile.runtime.engine import Engine
from edgecompile.sources.huggingface import describe
from edgecompile.structure import roles
from edgecompile.train import saving, source
from tests.architectures import cells
from tests.architectures.test_cells import NEAR, WINDOW, expected, export, opened

GPT2 = next(kind for kind in cells.KINDS if kind.model_type == "gpt2")
FUSED = "transformer.h.0.attn.c_attn.weight"
MASKS = {"h.0.attn.bias": torch.ones(1, 1, 256, 256).tril(), "h.1.attn.masked_bias": torch.ones(())}
MASK = "the mask of attention, which is computed"
ENGINES = [*cells.BACKENDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return cells.make(GPT2, cells.DECODER, tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(scope="module")
def old(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same with the names of the first checkpoints, and masks that they have."""
    folder = tmp_path_factory.mktemp("old")
    for file in model.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file({**bare, **MASKS}, folder / "model.safetensors", {"format": "pt"})
    return describe(folder, "old")


def with_config(model: Model, **changes: object) -> Model:
    return replace(model, config={**model.config, **changes})


def logits_of(folder: Path) -> np.ndarray:
    """transformers' own class on a folder."""
    module = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found: np.ndarray = module(torch.tensor([WINDOW])).logits[0].numpy()
    return found


def test_a_matrix_is_read_as_out_in(model: Model) -> None:
    stored = load_file(model.folder / "model.safetensors")[FUSED]
    assert tuple(stored.shape) == (64, 192)
    assert model.weights.infos[FUSED].shape == (192, 64)
    assert torch.equal(model.weights[FUSED], stored.t())


def test_its_products_are_linear_layers(model: Model) -> None:
    linear = {name for name, role in roles(model).items() if role == "linear"}
    assert len(linear) == 2 * 4
    assert FUSED in linear


def test_the_reference_answers_as_transformers_does(model: Model) -> None:
    assert np.abs(Reference(model).logits(WINDOW) - logits_of(model.folder)).max() < 1e-5


def test_an_old_checkpoint_answers_the_same(model: Model, old: Model) -> None:
    assert np.abs(Reference(old).logits(WINDOW) - Reference(model).logits(WINDOW)).max() < 1e-6


@pytest.mark.parametrize("backend", ENGINES)
def test_the_masks_of_an_old_checkpoint_are_left_out_with_the_reason(
    backend: str, old: Model, tmp_path: Path
) -> None:
    assert export(old, backend, tmp_path / "out").unused == dict.fromkeys(MASKS, MASK)


@pytest.mark.parametrize("backend", ENGINES)
def test_positions_go_on_where_the_last_call_ended(
    backend: str, model: Model, tmp_path: Path
) -> None:
    with engine(model, backend, tmp_path / "out").decoder(len(WINDOW)) as decoder:
        decoder.feed(WINDOW[:9])
        decoder.feed(WINDOW[9:10])
        rows = [np.array(row) for chunk in decoder.feed_all(WINDOW[10:20]) for row in chunk]
        rows += [np.array(decoder.feed([token])) for token in WINDOW[20:]]
    near = 1e-2 if backend in ("gguf", "openvino") else NEAR  # keys and values in float16
    assert np.abs(np.stack(rows) - expected(model)[10:]).max() < near


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "executorch"])
def test_a_text_beyond_the_table_is_refused(backend: str, model: Model, tmp_path: Path) -> None:
    opened_engine = engine(model, backend, tmp_path / "out")
    with pytest.raises(UsageError), opened_engine.decoder(257) as decoder:
        decoder.feed([5] * 257)


def engine(model: Model, backend: str, folder: Path) -> Engine:
    return opened(folder, model, export(model, backend, folder))


def test_a_bundles_context_is_the_tables_length(model: Model) -> None:
    section = tokenizer.generation(model)
    assert section is not None
    assert section["context_length"] == 256


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("setting", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_what_no_graph_computes_is_refused_by_name(
    setting: str, backend: str, model: Model
) -> None:
    other = with_config(model, **{setting: True})
    assert cells.refusal(other, backend) == f"{setting} is True"


def test_scores_that_are_not_scaled_are_not_llama_cpps(model: Model) -> None:
    other = with_config(model, scale_attn_weights=False)
    assert "scale_attn_weights is False" in cells.refusal(other, "gguf")


def test_an_activation_is_refused_under_the_configs_own_name(model: Model) -> None:
    other = with_config(model, activation_function="relu")
    assert "activation_function is 'relu'" in cells.refusal(other, "gguf")
    assert "activation 'relu'" in cells.refusal(other, "onnxruntime")


def test_a_width_that_is_no_number_is_named_as_the_config_has_it(model: Model) -> None:
    other = with_config(model, n_embd="two")
    assert "config.json has n_embd = 'two'" in cells.refusal(other, "gguf")


def test_a_compressed_folder_is_what_transformers_opens(model: Model, tmp_path: Path) -> None:
    settings = ("prune.method=depth", "prune.layers=1", "prune.texts=4", "prune.length=16")
    done = compress(
        Request(str(model.folder), (), settings=settings), tmp_path / "small", lambda *_: None
    )
    assert json.loads((done.folder / "config.json").read_text())["n_layer"] == 1
    found, wanted = logits_of(done.folder), Reference(describe(done.folder, "small")).logits(WINDOW)
    assert np.abs(found - wanted).max() < 1e-5
    stored = load_file(done.folder / "model.safetensors")[FUSED]
    assert tuple(stored.shape) == (64, 192)


def test_a_trained_folder_is_what_transformers_opens(model: Model, tmp_path: Path) -> None:
    module = source.module_of(model, ())
    assert isinstance(module.get_submodule("transformer.h.0.attn.c_attn"), torch.nn.Linear)
    with torch.no_grad():
        module.get_parameter(FUSED).mul_(1.5)
        wanted = module.eval()(torch.tensor([WINDOW])).logits[0].numpy()
    saving.write(tmp_path / "trained", module, model, {})
    assert np.abs(logits_of(tmp_path / "trained") - wanted).max() < 1e-5
