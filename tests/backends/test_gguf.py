"""MiniLM and SmolLM2 as GGUF: sealed codes decode exactly, and llama.cpp computes with them."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel

from edgecompile import sources
from edgecompile.backends import Export
from edgecompile.backends.gguf import Gguf
from edgecompile.model import Model
from edgecompile.sources.huggingface import describe
from tests.backends.codes import rounded

TEXTS = [
    "The cat sat on the mat.",
    "A steam engine turns heat into motion.",
    "Large language models are trained on text. " * 12,
    "naïve café 123,456",
    "yes",
]


def quiet(what: str, step: int, steps: int) -> None:
    pass


def manifest(model: Model, export: Export) -> Mapping[str, Any]:
    """The parts of a bundle's manifest that decoding reads."""
    floats = [n for n in model.weights if n not in model.quantized and n not in export.unused]
    schemes = {name: tensor.scheme.name for name, tensor in model.quantized.items()}
    return {
        "tensors": [{"name": name, "scheme": scheme} for name, scheme in schemes.items()],
        "floats": [{"name": name} for name in floats],
    }


@pytest.fixture(scope="module", params=[8, 4])
def made(
    request: pytest.FixtureRequest, minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Export, Path]:
    """MiniLM quantized to that many bits, its export and the folder with model.gguf."""
    folder = tmp_path_factory.mktemp("export")
    source = describe(minilm_folder, "minilm")
    model = rounded(source, tmp_path_factory.mktemp("codes"), request.param)
    return model, Gguf().export(model, folder, quiet), folder


def test_the_file_decodes_to_the_codes_that_were_chosen(made: tuple[Model, Export, Path]) -> None:
    model, export, folder = made
    decoded = Gguf().decode(folder, manifest(model, export))
    assert {n: t.digest(n) for n, t in decoded.quantized.items()} == {
        n: t.digest(n) for n, t in model.quantized.items()
    }
    assert set(decoded.floats) | set(decoded.quantized) | set(export.unused) == set(model.weights)
    assert all(np.array_equal(v, model.weights.float32(n)) for n, v in decoded.floats.items())
    for name in ("layer_norm_eps", "vocab_size", "num_attention_heads"):
        assert decoded.facts[name] == model.config[name], name


def test_llama_cpp_embeds_as_torch_does_on_the_same_codes(
    made: tuple[Model, Export, Path],
) -> None:
    model, _, folder = made
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    tokenizer.no_padding()
    batches = [tokenizer.encode(text).ids for text in TEXTS]
    found = embed_with_llama_cpp(folder / "model.gguf", batches)
    expected = embed_with_torch(model, batches)
    assert (found * expected).sum(axis=1).min() > 0.998  # llama.cpp rounds activations to 8 bits


def test_the_same_model_gives_the_same_bytes(
    made: tuple[Model, Export, Path], tmp_path: Path
) -> None:
    model, export, folder = made
    assert Gguf().export(model, tmp_path, quiet) == export
    assert (tmp_path / "model.gguf").read_bytes() == (folder / "model.gguf").read_bytes()


def test_two_swapped_layers_are_found(made: tuple[Model, Export, Path], tmp_path: Path) -> None:
    model, export, _ = made
    names = [f"encoder.layer.{layer}.output.dense.weight" for layer in (0, 1)]
    swapped = dict(zip(names, (model.quantized[n] for n in names[::-1]), strict=True))
    planted = dataclasses.replace(model, quantized={**model.quantized, **swapped})
    Gguf().export(planted, tmp_path, quiet)
    decoded = Gguf().decode(tmp_path, manifest(model, export))
    wrong = [n for n, t in decoded.quantized.items() if t.digest(n) != model.quantized[n].digest(n)]
    assert sorted(wrong) == names


def test_what_the_file_has_no_use_for_is_named(made: tuple[Model, Export, Path]) -> None:
    assert set(made[1].unused) == {
        "embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias",
    }  # fmt: skip
    assert "feed it token ids" in made[1].notes[0]


def test_the_licence_and_tokenizer_travel_in_the_file(made: tuple[Model, Export, Path]) -> None:
    engine = llama_cpp.Llama(str(made[2] / "model.gguf"), vocab_only=True, verbose=False)
    assert engine.metadata["general.license"] == "apache-2.0"
    assert engine.tokenize(b"hello world") == [101, 7592, 2088, 102]
    engine.close()


def test_half_precision_halves_the_matrices_that_are_not_quantized(
    minilm_folder: Path, tmp_path: Path
) -> None:
    model = describe(minilm_folder, "minilm")
    Gguf(float_type="f16").export(model, tmp_path, quiet)
    assert 45e6 < (tmp_path / "model.gguf").stat().st_size < 47e6


def test_a_quantized_table_that_must_be_float_is_refused(made: tuple[Model, Export, Path]) -> None:
    model = made[0]
    table = "embeddings.token_type_embeddings.weight"
    wrong = {**model.quantized, table: next(iter(model.quantized.values()))}
    assert table in Gguf().refusal(dataclasses.replace(model, quantized=wrong))


def test_a_gguf_source_can_be_planned_before_it_is_read(smollm2_gguf: Path) -> None:
    model = sources.describe(sources.resolve(str(smollm2_gguf)))
    assert Gguf().refusal(model) == ""


def test_the_size_is_known_before_anything_is_written(made: tuple[Model, Export, Path]) -> None:
    model, _, folder = made
    schemes = {name: tensor.scheme for name, tensor in model.quantized.items()}
    expected = (folder / "model.gguf").stat().st_size
    assert Gguf().size(model, schemes) == pytest.approx(expected, rel=0.03)


def test_a_classifier_is_refused(made: tuple[Model, Export, Path]) -> None:
    model = dataclasses.replace(made[0], task="classification")
    assert "task 'classification' is not one of" in Gguf().refusal(model)


def embed_with_torch(model: Model, batches: list[list[int]]) -> NDArray[np.float32]:
    """Mean-pooled unit vectors float32 [texts, 384] of the model with its dequantized weights."""
    module = AutoModel.from_pretrained(model.folder, dtype=torch.float32).eval()
    state = module.state_dict()
    for name in model.quantized:
        state[name].copy_(torch.from_numpy(model.dense(name)))
    with torch.no_grad():
        outputs = [module(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in batches]
    return unit(np.stack([output.mean(0).numpy() for output in outputs]))


def embed_with_llama_cpp(file: Path, batches: list[list[int]]) -> NDArray[np.float32]:
    """The same from the engine, fed with token ids one text at a time."""
    engine = llama_cpp.Llama(
        str(file), embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, verbose=False, n_threads=2
    )
    context, rows = engine._ctx.ctx, []
    for ids in batches:
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, at, 1
            batch.seq_id[at][0], batch.logits[at] = 0, 1
        assert llama_cpp.llama_encode(context, batch) == 0
        rows.append(llama_cpp.llama_get_embeddings_seq(context, 0)[: engine.n_embd()])
        llama_cpp.llama_batch_free(batch)
    engine.close()
    return unit(np.array(rows, np.float32))


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one."""
    scaled: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled
