"""SentencePiece vocabularies: out of a GGUF, into a tokenizer.json, into a GGUF, as llama.cpp."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from edgecompile.backends import gguf_tokens
from edgecompile.errors import BadInputError
from edgecompile.sources import gguf_tokenizer
from edgecompile.sources.gguf_file import GgufFile, read_gguf
from edgecompile.text.hard_strings import hard_strings

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = "the quick brown fox jumps over the lazy dog; 12 345 6789, don't naïve café 你好 世界"


def trained() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a small vocabulary, ranked as SentencePiece ranks its pieces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=3000, limit_alphabet=250, special_tokens=SPECIAL, show_progress=False
    )
    prose = [str(getattr(np, name).__doc__) for name in sorted(np.__all__)]
    tokenizer.train_from_iterator([*prose, *[WORDS] * 20], trainer)
    pieces = [piece for _, piece in sorted((n, p) for p, n in tokenizer.get_vocab().items())]
    learnt = [piece for piece in pieces if piece not in SPECIAL]
    tokens = [*SPECIAL, *BYTES, *learnt, "<tool>"]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(learnt))] + [0.0]
    return tokens, scores, [2, 3, 3, *[6] * 256, *[1] * len(learnt), 4]


def write(path: Path, changes: dict[str, Any]) -> GgufFile:
    """A GGUF of the trained vocabulary without tensors."""
    tokens, scores, types = trained()
    values = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types} | changes
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("context_length", "embedding_length", "block_count", "attention.head_count"):
        writer.add_uint32(f"llama.{key}", 64)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    add = {str: writer.add_string, bool: writer.add_bool, list: writer.add_array,
           float: writer.add_float32, int: writer.add_uint32}  # fmt: skip
    for key, value in values.items():
        name = key if key.startswith("tokenizer.") else f"tokenizer.ggml.{key}"
        add[type(value)](name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_gguf(path)


def engine_ids(path: Path, texts: list[str]) -> list[list[int]]:
    engine = llama_cpp.Llama(str(path), vocab_only=True, n_ctx=8, verbose=False)
    ids = [engine.tokenize(text.encode(), add_bos=True, special=True) for text in texts]
    engine.close()
    return ids


@pytest.mark.parametrize("prefix", [True, False])
def test_the_tokenizer_gives_llama_cpps_ids_on_all_hard_strings(
    tmp_path: Path, prefix: bool
) -> None:
    file = write(tmp_path / "v.gguf", {"add_space_prefix": prefix})
    tokenizer = Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer_json(file)))
    texts = [*hard_strings(), "a<tool>b", "<s> x</s>y"]
    ids = engine_ids(file.path, texts)
    assert [tokenizer.encode(text).ids for text in texts] == ids


def test_a_text_survives_encoding_and_decoding(tmp_path: Path) -> None:
    file = write(tmp_path / "v.gguf", {})
    tokenizer = Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer_json(file)))
    for text in ("the quick fox", "  two spaces", "naïve 😀 \n", WORDS):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_tokenizer_json_written_to_gguf_gives_the_same_ids_in_llama_cpp(tmp_path: Path) -> None:
    file = write(tmp_path / "v.gguf", {})
    document = gguf_tokenizer.tokenizer_json(file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    config = gguf_tokenizer.tokenizer_config(file, 64)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    rows = len(gguf_tokenizer.vocabulary(file))
    assert gguf_tokens.refusal(tmp_path) == ""
    again = write(tmp_path / "w.gguf", gguf_tokens.tokenizer_metadata(tmp_path, rows))
    texts = list(hard_strings())
    assert engine_ids(again.path, texts) == engine_ids(file.path, texts)
    assert again.metadata["tokenizer.ggml.token_type"] == file.metadata["tokenizer.ggml.token_type"]


def test_merges_that_are_not_by_score_are_refused(tmp_path: Path) -> None:
    document = gguf_tokenizer.tokenizer_json(write(tmp_path / "v.gguf", {}))
    merges = document["model"]["merges"]
    made = ["".join(merge) for merge in merges]
    repeated = next(n for n, token in enumerate(made) if made.count(token) > 1)
    left, right = merges.pop(repeated)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert f"it never joins {left!r} and {right!r}" in gguf_tokens.refusal(tmp_path)


def test_other_rules_for_spaces_are_refused(tmp_path: Path) -> None:
    document = gguf_tokenizer.tokenizer_json(write(tmp_path / "v.gguf", {}))
    document["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert "not SentencePiece's spaces" in gguf_tokens.refusal(tmp_path)


def test_scores_and_pieces_are_bounded(tmp_path: Path) -> None:
    file = write(tmp_path / "v.gguf", {"scores": [0.0, 1.0]})
    with pytest.raises(BadInputError, match=r"scores has 2 entries"):
        gguf_tokenizer.tokenizer_json(file)
    tokens, _, _ = trained()
    file = write(tmp_path / "w.gguf", {"tokens": [*tokens[:-2], "x" * 600, tokens[-1]]})
    with pytest.raises(BadInputError, match="a token of 600 characters"):
        gguf_tokenizer.tokenizer_json(file)
