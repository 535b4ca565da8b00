"""Small decoders with random weights: torch, llama.cpp on our file, and the file read back."""
from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from edgecompile.architectures import DECODERS, norm_offsets
from edgecompile.backends.gguf import Gguf
from edgecompile.errors import BadInputError, EdgecompileError, UnsupportedError
from edgecompile.model import Pooling
from edgecompile.sources.gguf import convert, describe
from edgecompile.sources.gguf_file import read_gguf
from edgecompile.sources.huggingface import describe as describe_folder

VOCABULARY = 320
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, rms_norm_eps=1e-5),
    "llama-biases-wide-heads": LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, head_dim=32, tie_word_embeddings=True
    ),
    "llama-3-rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-linear-rope": LlamaConfig(**SIZES, rope_parameters=LINEAR),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
    "phi3": Phi3Config(**SIZES, pad_token_id=1),
    "smollm3": SmolLM3Config(**SIZES | {"num_hidden_layers": 5}, pad_token_id=1),
    "gemma": GemmaConfig(**SIZES, head_dim=32),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=8,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_inner=96, n_layer=2, n_head=4, n_positions=512,
        bos_token_id=0, eos_token_id=1, layer_norm_epsilon=1e-3,
    ),
    "granite": GraniteConfig(
        **SIZES, embedding_multiplier=5.0, residual_multiplier=0.7, attention_multiplier=0.4,
        logits_scaling=3.0,
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
        },
    ),
}
PROMPT = [0, *range(5, 300, 7)]


def quiet(what: str, step: int, steps: int) -> None:
    pass


def make_folder(folder: Path, config: PretrainedConfig) -> torch.Tensor:
    """A Hugging Face folder of that model; returns its logits on the prompt."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.5
            parameter.copy_(torch.randn_like(parameter) * spread + (parameter.dim() == 1))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([PROMPT])).logits[0]
    return logits


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


@pytest.fixture(scope="module", params=CONFIGS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, torch.Tensor]:
    """(source folder, export folder, logits of the source)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    logits = make_folder(source, CONFIGS[request.param])
    Gguf().export(describe_folder(source, "tiny"), out, quiet)
    return source, out, logits


def test_llama_cpp_computes_what_torch_computes(made: tuple[Path, Path, torch.Tensor]) -> None:
    _, out, logits = made
    engine = llama_cpp.Llama(
        str(out / "model.gguf"), n_ctx=64, logits_all=True, verbose=False, n_threads=2,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    engine.eval(PROMPT)
    found = np.array(engine.scores[: len(PROMPT)])
    engine.close()
    assert np.abs(found - logits.numpy()).max() < 0.02 * logits.abs().max().item()
    assert (found.argmax(1) == logits.numpy().argmax(1)).mean() > 0.95


def test_reading_our_file_gives_the_source_back(
    made: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    source, out, logits = made
    convert(out / "model.gguf", tmp_path, quiet)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path))
    assert before.keys() == after.keys()
    added = norm_offsets(json.loads((source / "config.json").read_text())["model_type"], before)
    for name in before:  # a norm is kept as what it multiplies with
        offset = added.get(name, 0.0)
        assert torch.equal(before[name] + offset, after[name] + offset), name
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([PROMPT])).logits[0], logits)


def test_reading_a_file_twice_gives_the_same_bytes(
    made: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        convert(made[1] / "model.gguf", tmp_path / name, quiet)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert "model.safetensors" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_describing_our_file_agrees_with_converting_it(
    made: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    description = describe(made[1] / "model.gguf")
    convert(made[1] / "model.gguf", tmp_path, quiet)
    assert description.config == json.loads((tmp_path / "config.json").read_text())
    infos = describe_folder(tmp_path, "back").weights.infos
    assert description.tensors == {n: (info.shape, info.dtype) for n, info in infos.items()}


def test_decoding_finds_every_float_and_the_hyperparameters(
    made: tuple[Path, Path, torch.Tensor],
) -> None:
    source, out, _ = made
    model = describe_folder(source, "tiny")
    decoded = Gguf().decode(out, {"floats": [{"name": name} for name in model.weights]})
    assert decoded.floats.keys() == set(model.weights)
    for name, values in decoded.floats.items():
        added = norm_offsets(model.architecture, [name]).get(name, 0)
        assert np.array_equal(values, model.weights.float32(name) + np.float32(added)), name
    for name in ("num_hidden_layers", "num_key_value_heads", "hidden_size", "intermediate_size"):
        assert decoded.facts[name] == model.common_config[name], name
    epsilon = DECODERS[model.architecture].epsilon
    assert decoded.facts["norm_eps"] == pytest.approx(model.config[epsilon])


def test_what_a_config_leaves_out_is_what_transformers_takes_for_it(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        **SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=8, pad_token_id=1
    )
    make_folder(tmp_path, config)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["rope_parameters"], saved["layer_types"]
    (tmp_path / "config.json").write_text(json.dumps(saved | {"sliding_window_pattern": 2}))
    (tmp_path / "out").mkdir()
    Gguf().export(describe_folder(tmp_path, "tiny"), tmp_path / "out", quiet)
    found = read_gguf(tmp_path / "out" / "model.gguf").metadata
    assert found["gemma3.rope.freq_base"] == 1e6
    assert found["gemma3.rope.freq_base_swa"] == 1e4
    assert found["gemma3.attention.sliding_window_pattern"] == [True, False]


def test_a_name_that_llama_cpp_has_other_rules_for_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "m", CONFIGS["phi3"])
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedError, match=r"vocabulary.*another name"):
        Gguf().export(describe_folder(tmp_path / "m", "my-phi3"), tmp_path / "out", quiet)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"model_type": "mamba"}, "architecture 'mamba' is not one of llama"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"partial_rotary_factor": 0.5}, "only 8 of a head's 16 numbers"),
        ({"rms_norm_eps": None}, "config.json has rms_norm_eps = None"),
        ({"num_hidden_layers": "2"}, "config.json has num_hidden_layers = '2'"),
        ({"model_type": "qwen3", "head_dim": None}, "config.json has head_dim = None"),
    ],
)
def test_a_model_that_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    make_folder(tmp_path, CONFIGS["llama"])
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert complaint in Gguf().refusal(describe_folder(tmp_path, "odd"))


def test_an_unknown_pre_tokenizer_is_refused_with_what_was_found(tmp_path: Path) -> None:
    make_folder(tmp_path, CONFIGS["llama"])
    file = tmp_path / "tokenizer.json"
    document = json.loads(file.read_text()) | {"pre_tokenizer": {"type": "Whitespace"}}
    file.write_text(json.dumps(document))
    assert "Whitespace" in Gguf().refusal(describe_folder(tmp_path, "odd"))


@pytest.mark.parametrize(("mode", "row"), [("lasttoken", -1), ("cls", 0)])
def test_a_decoder_without_a_head_embeds_with_its_pooling(
    tmp_path: Path, mode: str, row: int
) -> None:
    torch.manual_seed(0)
    module = AutoModel.from_config(CONFIGS["qwen3"], attn_implementation="eager").eval()
    module.save_pretrained(tmp_path)  # names without the `model.` of a causal model
    save_tokenizer(tmp_path)
    model = describe_folder(tmp_path, "embedder", "embedding")
    model = dataclasses.replace(model, pooling=Pooling(mode, normalize=True, max_length=64))
    (tmp_path / "out").mkdir()
    export = Gguf().export(model, tmp_path / "out", quiet)
    with torch.no_grad():
        expected = module(torch.tensor([PROMPT])).last_hidden_state[0, row].numpy()
    engine = llama_cpp.Llama(
        str(tmp_path / "out" / export.file), embedding=True, n_ctx=64, n_batch=64, n_ubatch=64,
        verbose=False, n_threads=2,
    )  # fmt: skip
    engine._batch.add_sequence(PROMPT, 0, True)
    engine._ctx.decode(engine._batch)
    found = np.array(llama_cpp.llama_get_embeddings_seq(engine._ctx.ctx, 0)[:64])
    engine.close()
    assert export.options["pooling"] == mode
    cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine > 0.999


def test_a_bias_that_llama_cpp_does_not_add_is_refused_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path, Qwen3Config(**SIZES, head_dim=32, attention_bias=True))
    refusal = Gguf().refusal(describe_folder(tmp_path, "odd"))
    assert "no place for tensor 'model.layers.0.self_attn.k_proj.bias'" in refusal


def test_a_value_that_is_not_finite_is_refused_with_its_tensor(
    made: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    data = bytearray((made[1] / "model.gguf").read_bytes())
    place = read_gguf(made[1] / "model.gguf").tensors["blk.1.ffn_down.weight"].offset
    data[place : place + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "nan.gguf").write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInputError, match=r"'blk.1.ffn_down.weight' .* not finite"):
        convert(tmp_path / "nan.gguf", tmp_path / "out", quiet)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
@given(data=st.data())
def test_damage_ends_in_a_folder_or_an_error_of_ours(
    made: tuple[Path, Path, torch.Tensor], tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:  # fmt: skip
    damaged = bytearray((made[1] / "model.gguf").read_bytes())
    header = damaged.index(b"blk.1.attn_norm.weight") + 2000
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "x.gguf").write_bytes(damaged)
    with contextlib.suppress(EdgecompileError):
        convert(folder / "x.gguf", folder, quiet)


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    config = MistralConfig(**SIZES, sliding_window=128, head_dim=16)
    make_folder(tmp_path, config)
    (tmp_path / "out").mkdir()
    export = Gguf().export(describe_folder(tmp_path, "window"), tmp_path / "out", quiet)
    assert export.options["n_ctx"] == 128
