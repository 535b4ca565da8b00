"""A decoder compared block by block gives what it gives when compared whole."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgecompile import sources
from edgecompile.backends import Decoded
from edgecompile.calibration.streamed import SealedWeights, Stream
from edgecompile.check import check_bundle
from edgecompile.checks import Limits
from edgecompile.checks.streamed import ROWS, StoredLogits
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import Scheme
from edgecompile.reference import Reference
from edgecompile.text import Corpus, default_corpus
from tests import tiny
from tests.test_check_tasks import built, quiet

LIMITS = Limits(
    tokens=2048, window=128, fidelity_tokens=256, repeats=3, new_tokens=4, threads=2
)
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.1,
}  # fmt: skip
KINDS = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "gemma2": transformers.Gemma2Config,
    "bloom": transformers.BloomConfig,  # its blocks give tuples
    "gpt2": transformers.GPT2Config,  # its matrices are stored [in, out]
    "openai-gpt": transformers.OpenAIGPTConfig,  # no nn.Linear in its blocks: it runs as a whole
}
COMPARED = ("kl_mean", "perplexity_ratio", "top1_agreement", "export_kl_mean")


def decoder(kind: str, folder: Path, **changes: Any) -> Model:
    """A random decoder of three layers with the tests' tokenizer."""
    torch.manual_seed(3)
    config = KINDS[kind](**SIZES | {"vocab_size": tiny.byte_bpe(folder)} | changes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.card(folder)
    return sources.load(sources.resolve(str(folder)), quiet)


@pytest.fixture(scope="module")
def corpus(cache_folder: Path) -> Corpus:
    return default_corpus()


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen2", True)])
def test_a_bundle_gets_the_same_metrics_from_both_ways(
    kind: str, tied: bool, corpus: Corpus, tmp_path: Path
) -> None:
    model = decoder(kind, tmp_path / "tiny", tie_word_embeddings=tied)
    bundle = built(model, "gguf", tmp_path)
    said: list[str] = []
    corpus = dataclasses.replace(corpus, held_out=corpus.held_out[:4])  # both ways read all of it
    whole = check_bundle(bundle, model, corpus, LIMITS, quiet)
    by_block = check_bundle(
        bundle, model, corpus, dataclasses.replace(LIMITS, stream_above=0),
        lambda what, _done, _total: said.append(what),
    )  # fmt: skip
    needs_the_source_whole = (
        "context_kl", "greedy_prefix", "refusal_change", "toxic_rate", "toxic_rate_source",
    )
    assert {row.metric: row.samples for row in by_block.rows} == {
        row.metric: row.samples for row in whole.rows if row.metric not in needs_the_source_whole
    }
    for metric in COMPARED:
        assert by_block.value(metric) == pytest.approx(whole.value(metric), rel=1e-3), metric
    if kind == "llama":  # transformers rebuilds a Qwen2 folder's tokenizer with another pattern
        assert whole.value("tokenizer_differences") == 0  # texts are longer than 256 tokens
    assert "compare with the same codes, block 3 of 3" in said
    assert not [name for name in said if "block" in name and "of 3" not in name]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    model = decoder(kind, tmp_path / "tiny")
    rng = np.random.default_rng(0)
    windows = [rng.integers(2, 260, size) for size in (40, 40, 17)]
    stream = Stream(model, tmp_path, quiet, "run")
    found = [np.concatenate(list(pieces)) for pieces in stream.logits(windows, 16)]
    whole = Reference(model)
    for ids, logits in zip(windows, found, strict=True):
        np.testing.assert_allclose(logits, whole.logits(ids.tolist()), rtol=1e-4, atol=1e-4)


def test_codes_and_changed_floats_are_those_of_a_swapped_reference(tmp_path: Path) -> None:
    model = decoder("llama", tmp_path / "tiny")
    names = [n for n, info in model.weights.infos.items() if len(info.shape) == 2]
    codes = {n: quantize(model.weights.float32(n), Scheme(4, 32), False) for n in names}
    norm = "model.layers.1.input_layernorm.weight"
    decoded = Decoded(codes, {norm: model.weights.float32(norm) * 1.5}, {})
    sealed = dataclasses.replace(model, weights=SealedWeights(model.weights, decoded, [norm]))
    ids = np.arange(3, 60)
    stream = Stream(sealed, tmp_path, quiet, "run", (*codes, norm)).logits([ids], 16)
    found = np.concatenate(list(next(stream)))
    with Reference(model).quantized(codes, decoded.floats) as swapped:
        wanted = swapped.logits(ids.tolist())
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_sealed_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    model = decoder("llama", tmp_path / "tiny")
    stream = Stream(model, tmp_path, quiet, "run", ("model.layers.7.mlp.up_proj.weight",))
    with pytest.raises(BadInputError, match=r"layers\.7\.mlp"):
        next(stream.logits([np.arange(3, 9)], 16))


def test_fed_layers_are_read_once_and_logits_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above KEEP_BYTES a reference's layers are fed from the file: 260 MB of float32 here."""
    model = decoder(
        "llama", tmp_path / "tiny", hidden_size=1024, intermediate_size=4096, head_dim=256,
        num_hidden_layers=4, vocab_size=4096, tie_word_embeddings=False,
    )  # fmt: skip
    read: list[str] = []
    original = type(model.weights).float32

    def noted(weights: Any, name: str) -> Any:
        read.append(name)
        return original(weights, name)

    monkeypatch.setattr(type(model.weights), "float32", noted)
    ids = [np.arange(3, 40), np.arange(40, 70)]
    stream = Stream(model, tmp_path, quiet, "run")
    found = [np.concatenate(list(pieces)) for pieces in stream.logits(ids, 16)]
    assert len(read) == len(set(read)) == 4 * 7 + 1  # the blocks' matrices and the head
    whole = Reference(model)
    np.testing.assert_allclose(found[1], whole.logits(ids[1].tolist()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sizes", [(), (5,), (64, 64, 3), (200,)])
def test_stored_logits_come_back_in_pieces(sizes: tuple[int, ...], tmp_path: Path) -> None:
    stored = StoredLogits(tmp_path / "logits")
    chunks = [np.random.default_rng(n).normal(size=(n, 7)).astype("f4") for n in sizes]
    stored.add(0, iter([np.ones((2, 7), "f4")]))
    stored.add(1, iter(chunks))
    back = list(stored.read(1))
    assert all(len(piece) <= ROWS for piece in back)
    if sizes:
        np.testing.assert_array_equal(np.concatenate(back), np.concatenate(chunks))
    else:
        assert back == []
    np.testing.assert_array_equal(np.concatenate(list(stored.read(0))), np.ones((2, 7), "f4"))
