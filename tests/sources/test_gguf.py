"""A real GGUF as a Hugging Face folder: exact config, llama.cpp's logits, licence, same bytes."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgecompile.backends.gguf import Gguf
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources.gguf import convert, describe
from edgecompile.sources.gguf_file import GgufFile, read_gguf
from edgecompile.sources.huggingface import describe as describe_folder
from edgecompile.sources.huggingface import licence

Logits = NDArray[np.float32]
TEXT = (
    "The history of the steam engine begins in the first century, when Hero of Alexandria "
    "described a device that turned heat into motion. In 1712 Thomas Newcomen built the first "
    "practical one."
)


def quiet(what: str, step: int, steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 converted."""
    made = tmp_path_factory.mktemp("smollm2")
    convert(smollm2_gguf, made, quiet)
    return made


def test_the_config_has_the_decimals_that_were_meant(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-05
    assert config["rope_theta"] == 100000.0
    assert config["tie_word_embeddings"] is True
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (9, 3)


def test_the_header_alone_tells_what_will_be_written(smollm2_gguf: Path, folder: Path) -> None:
    description = describe(smollm2_gguf)
    assert description.config == json.loads((folder / "config.json").read_text())
    infos = describe_folder(folder, "smollm2").weights.infos
    assert description.tensors == {n: (info.shape, info.dtype) for n, info in infos.items()}
    assert description.licence == licence(folder).id == "apache-2.0"
    assert description.notes == (
        "the weights were quantized before (210 of type Q4_1, 1 of type Q8_0); "
        "that error is in the source",
    )


@pytest.fixture(scope="module")
def expected(folder: Path) -> tuple[list[int], Logits]:
    """The text's ids and torch's logits in float32."""
    ids = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return ids, model(torch.tensor([ids])).logits[0].numpy()


def test_logits_agree_with_llama_cpp_on_the_original_file(
    smollm2_gguf: Path, expected: tuple[list[int], Logits]
) -> None:
    ids, logits = expected
    tokens, found = run_llama_cpp(smollm2_gguf)
    assert tokens == ids
    assert kl_divergence(logits, found) < 0.01  # llama.cpp rounds activations to 8 bits


def test_logits_agree_with_llama_cpp_in_float_to_rounding(
    folder: Path, expected: tuple[list[int], Logits], tmp_path: Path
) -> None:
    Gguf().export(describe_folder(folder, "smollm2"), tmp_path, quiet)
    _, logits = expected
    _, found = run_llama_cpp(tmp_path / "model.gguf")
    assert kl_divergence(logits, found) < 1e-5
    assert (found.argmax(1) == logits.argmax(1)).mean() > 0.95  # near-ties may turn


def test_dequantized_values_are_the_gguf_packages_and_rows_are_in_order(
    smollm2_gguf: Path, folder: Path
) -> None:
    stored = read_gguf(smollm2_gguf)
    with safe_open(str(folder / "model.safetensors"), "np") as file:
        down = file.get_tensor("model.layers.3.mlp.down_proj.weight")
        query = file.get_tensor("model.layers.3.self_attn.q_proj.weight")
    tensor = stored.tensors["blk.3.ffn_down.weight"]
    assert np.array_equal(down, gguf.dequantize(stored.raw(tensor), tensor.type))
    tensor = stored.tensors["blk.3.attn_q.weight"]
    values = gguf.dequantize(stored.raw(tensor), tensor.type)
    # llama.cpp keeps a rotated pair side by side; transformers keeps it half a head apart
    assert np.array_equal(query[[64, 96]], values[[64, 65]])


def test_the_chat_template_and_special_tokens_come_along(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"general.architecture": "mamba"}, UnsupportedError, "'mamba'; expected llama or qwen2"),
        ({"llama.block_count": None}, BadInputError, "no 'llama.block_count'"),
        ({"llama.block_count": 29}, UnsupportedError, "has no place for: blk.29"),
        ({"llama.block_count": 31}, BadInputError, "'blk.30.attn_q.weight' is missing"),
        ({"llama.block_count": 2**31}, BadInputError, "at most the number of tensors"),
        ({"llama.feed_forward_length": 640}, BadInputError, "'blk.0.ffn_gate.weight' has shape"),
        ({"llama.attention.head_count": 0}, BadInputError, "head_count is 0"),
        ({"llama.attention.head_count": "9"}, BadInputError, "head_count is '9'"),
        ({"llama.expert_count": 8}, UnsupportedError, "a mixture of 8 experts"),
        ({"llama.rope.dimension_count": 32}, UnsupportedError, "rope.dimension_count is 32"),
        ({"llama.rope.scaling.type": "yarn"}, UnsupportedError, "scaling.type is 'yarn'"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, BadInputError, "epsilon is -1.0"),
        ({"llama.rope.freq_base": float("nan")}, BadInputError, "freq_base is nan"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_by_name(
    smollm2_gguf: Path, changes: dict[str, Any], error: type, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = read_gguf(smollm2_gguf)
    metadata = {k: v for k, v in (dict(file.metadata) | changes).items() if v is not None}
    changed = GgufFile(file.path, metadata, file.tensors)
    monkeypatch.setattr("edgecompile.sources.gguf.read_gguf", lambda path: changed)
    with pytest.raises(error, match=message):
        describe(smollm2_gguf)


def run_llama_cpp(file: Path) -> tuple[list[int], Logits]:
    """The engine's own ids of the text, and its logits float32 [tokens, vocabulary]."""
    engine = llama_cpp.Llama(str(file), n_ctx=128, logits_all=True, verbose=False, n_threads=2)
    ids = engine.tokenize(TEXT.encode(), add_bos=False, special=True)
    engine.eval(ids)
    found = np.array(engine.scores[: len(ids)])
    engine.close()
    return ids, found


def kl_divergence(expected: Logits, found: Logits) -> float:
    """Mean KL of two logit tables, nats a token."""
    first, second = (
        torch.log_softmax(torch.from_numpy(x).double(), dim=1) for x in (expected, found)
    )
    return float((first.exp() * (first - second)).sum(1).mean())
