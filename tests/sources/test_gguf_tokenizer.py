"""Tokenizers read from GGUF files give llama.cpp's ids, for each supported pre-tokenizer."""
from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import pytest
from tokenizers import Tokenizer

from edgecompile.backends import gguf_tokens
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources import gguf_tokenizer
from edgecompile.sources.gguf_file import GgufFile, read_gguf
from edgecompile.sources.gguf_pre import PRE_TOKENIZERS, pre_name
from edgecompile.text.hard_strings import hard_strings


def write_vocabulary(path: Path, source: GgufFile, changes: dict[str, Any]) -> GgufFile:
    """A GGUF with that file's metadata but for the changes (None removes a key), no tensors."""
    writer = gguf.GGUFWriter(path, source.metadata["general.architecture"])
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
              str: writer.add_string, list: writer.add_array}  # fmt: skip
    for key, value in (dict(source.metadata) | changes).items():
        if value is not None and key != "general.architecture":
            adders[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_gguf(path)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> GgufFile:
    return read_gguf(smollm2_gguf)


def differences(file: GgufFile, texts: list[str]) -> list[str]:
    """Texts for which our tokenizer.json and llama.cpp disagree."""
    engine = llama_cpp.Llama(str(file.path), vocab_only=True, n_ctx=8, verbose=False)
    tokenizer = Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer_json(file)))
    wrong = [
        text
        for text in texts
        if tokenizer.encode(text, add_special_tokens=False).ids
        != engine.tokenize(text.encode(), add_bos=False, special=True)
    ]
    engine.close()
    return wrong


def test_smollm2_gives_llama_cpps_ids_on_all_hard_strings(smollm2: GgufFile) -> None:
    texts = list(hard_strings())
    assert len(texts) >= 300
    assert differences(smollm2, texts) == []


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_splits_as_llama_cpp_does(
    smollm2: GgufFile, tmp_path: Path, pre: str
) -> None:
    file = write_vocabulary(tmp_path / "v.gguf", smollm2, {"tokenizer.ggml.pre": pre})
    # llama.cpp leaves out two things of the models' own rules: NFC, and marks in tekken's words.
    texts = [text for text in hard_strings() if unicodedata.is_normalized("NFC", text)]
    if pre == "tekken":
        texts = [t for t in texts if not any(unicodedata.category(c)[0] == "M" for c in t)]
    assert differences(file, texts) == []


def test_a_file_without_a_pre_tokenizer_follows_llama_cpps_default(
    smollm2: GgufFile, tmp_path: Path
) -> None:
    file = write_vocabulary(tmp_path / "v.gguf", smollm2, {"tokenizer.ggml.pre": None})
    assert differences(file, list(hard_strings())) == []


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "default"])
def test_the_name_is_found_again_from_the_structure(
    smollm2: GgufFile, tmp_path: Path, name: str
) -> None:
    file = write_vocabulary(tmp_path / "v.gguf", smollm2, {"tokenizer.ggml.pre": name})
    rewritten = Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer_json(file))).to_str()
    assert pre_name(json.loads(rewritten)) == name


def test_a_tokenizer_json_written_to_gguf_is_the_files_own_data(
    smollm2: GgufFile, tmp_path: Path
) -> None:
    document = gguf_tokenizer.tokenizer_json(smollm2)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    config = gguf_tokenizer.tokenizer_config(smollm2, 64)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    values = gguf_tokens.tokenizer_metadata(tmp_path, 49152)
    for key in ("pre", "tokens", "token_type", "merges", "bos_token_id", "add_bos_token"):
        name = f"tokenizer.ggml.{key}"
        assert values[name] == smollm2.metadata[name], key
    assert values["tokenizer.chat_template"] == smollm2.metadata["tokenizer.chat_template"]


def test_begin_and_end_tokens_are_added_where_the_file_says(
    smollm2: GgufFile, tmp_path: Path
) -> None:
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    file = write_vocabulary(tmp_path / "v.gguf", smollm2, both)
    tokenizer = Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer_json(file)))
    assert tokenizer.encode("a").tokens == ["<|im_start|>", "a", "<|im_end|>"]


def test_every_id_that_ends_an_answer_is_a_stop_token(smollm2: GgufFile, tmp_path: Path) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 0}
    file = write_vocabulary(tmp_path / "v.gguf", smollm2, ends)
    assert gguf_tokenizer.generation_config(file)["eos_token_id"] == [0, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, UnsupportedError, "tokenizer model 't5'"),
        ({"tokenizer.ggml.pre": "viking"}, UnsupportedError, "pre-tokenizer 'viking'"),
        ({"tokenizer.ggml.merges": None}, BadInputError, "no 'tokenizer.ggml.merges'"),
        ({"tokenizer.ggml.merges": ["a b", "ab"]}, BadInputError, "merge 'a b' is not of two"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, BadInputError, "1 tokens twice"),
        ({"tokenizer.ggml.token_type": [1, 2]}, BadInputError, "token_type has 2 entries"),
        ({"tokenizer.ggml.bos_token_id": 49152}, BadInputError, "bos_token_id is 49152"),
        ({"tokenizer.ggml.pre": 7}, BadInputError, "tokenizer.ggml.pre is 7"),
    ],
)
def test_bad_tokenizer_data_is_named(
    smollm2: GgufFile, tmp_path: Path, changes: dict[str, Any], error: type, message: str
) -> None:
    if changes.get("tokenizer.ggml.merges"):
        changes = changes | {"tokenizer.ggml.tokens": ["a", "b", "c"]}
        changes |= {"tokenizer.ggml.token_type": [1, 1, 1]}
    file = write_vocabulary(tmp_path / "v.gguf", smollm2, changes)
    with pytest.raises(error, match=message):  # noqa: PT012 (one of the two, by the key)
        gguf_tokenizer.tokenizer_json(file)
        gguf_tokenizer.tokenizer_config(file, 64)
